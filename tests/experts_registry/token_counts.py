"""Texts of many kinds with the tokens that SmolLM2-135M-Instruct's tokenizer makes of them; a slow test recounts."""

from __future__ import annotations

import base64
import json
import string
from random import Random

_DRAW = Random(0)
_ENTRIES = {f"field_{i}": {"type": "string", "enum": ["a", "b"], "description": f"the {i}th"} for i in range(12)}
SCHEMA = json.dumps({"type": "object", "properties": _ENTRIES, "required": ["field_1"]})

TEXTS = {
    "prose": "The history of the city goes back to the twelfth century, when merchants from the coast founded a market "
    "beside the river. It was burnt twice, rebuilt each time, and became the seat of a bishop. Which of the following "
    "statements about the trade in salt, which made its citizens rich, is supported by the passage?",
    "German": "Die Würde des Menschen ist unantastbar. Sie zu achten und zu schützen ist Verpflichtung aller "
    "staatlichen Gewalt. Das Deutsche Volk bekennt sich darum zu unverletzlichen Menschenrechten.",
    "Chinese": "人工智能是计算机科学的一个分支，它企图了解智能的实质，"
    "并生产出一种新的能以人类智能相似的方式做出反应的智能机器。",
    "Korean": "대한민국의 헌법은 국민의 기본권을 보장한다. 모든 국민은 법 앞에 평등하다.",
    "Russian": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "choice": "A train leaves at 9:15 and arrives at 11:40. How long?\nA) 2 h 25 min\n"
    "B) 2 h 35 min\nC) 3 h\nD) 1 h 5 min",
    "capitals": "THE HISTORY OF THE CITY GOES BACK TO THE TWELFTH CENTURY WHEN MERCHANTS FOUNDED A MARKET",
    "code": "def parse(path: Path) -> dict[str, int]:\n    with path.open() as file:\n        rows = [line.split(',') "
    "for line in file if line.strip()]\n    return {name: int(count) for name, count in rows}  # two columns\n",
    "JSON": SCHEMA,
    "numbers": json.dumps([_DRAW.random() for _ in range(30)]),
    "LaTeX": r"\frac{\partial^2 u}{\partial t^2} = c^2 \nabla^2 u,\quad \int_{-\infty}^{\infty} e^{-x^2}\,dx = "
    r"\sqrt{\pi}, \quad \sum_{n=1}^{\infty} \frac{1}{n^2} = \frac{\pi^2}{6}, "
    r"\left\lfloor \frac{a_{ij}}{2} \right\rfloor",
    "base64": base64.b64encode(_DRAW.randbytes(450)).decode(),
    "letters": "".join(_DRAW.choices(string.ascii_lowercase, k=400)),
    "symbols": "".join(_DRAW.choices(string.punctuation, k=400)),
    "emoji": "😀🎉🚀👍🏽🧠🔥💡📈🙈🍉🦔🪐" * 5,
}
REAL_TOKENS = {
    "prose": 64,
    "German": 67,
    "Chinese": 87,
    "Korean": 85,
    "Russian": 70,
    "choice": 57,
    "capitals": 33,
    "code": 62,
    "JSON": 371,
    "numbers": 604,
    "LaTeX": 104,
    "base64": 477,
    "letters": 237,
    "symbols": 306,
    "emoji": 195,
}
