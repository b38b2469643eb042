"use strict";
// Sorts a table by the column whose heading is pressed, and filters long ones; without it the page is whole too.
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell === undefined ? "" : cell.dataset.v ?? cell.textContent.trim();
  };
  const sort = (table, heading) => {
    const column = heading.cellIndex;
    const numeric = heading.dataset.kind === "number";
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: key(row, column) }));
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "") || a.place - b.place;
      const difference = numeric ? Number(a.value) - Number(b.value) : a.value.localeCompare(b.value, "en", { numeric: true });
      return sign * difference || a.place - b.place;
    });
    for (const th of heading.parentElement.cells) th.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows.map(({ row }) => row));
  };
  const addFilter = (table) => {
    const input = document.createElement("input");
    input.type = "search";
    input.className = "filter";
    input.placeholder = `Filter ${table.tBodies[0].rows.length} rows`;
    input.setAttribute("aria-label", "Show only rows with this text");
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.closest(".scroll").before(input);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.querySelectorAll("thead th")) {
      heading.querySelector("button").addEventListener("click", () => sort(table, heading));
    }
    if (table.tBodies[0].rows.length > 15) addFilter(table);
  }
})();
