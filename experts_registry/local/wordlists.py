"""Word lists of the task families that no generator library covers: word forms and geography.

Each table is a block of ``word:form`` entries, one problem an entry. Words with two accepted
forms (``learned``/``learnt``, a country with two capitals) are left out, so that every question
has exactly one right answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _table(block: str) -> Mapping[str, str]:
    """Read ``word:form`` entries; an underscore stands for a space."""
    pairs = (entry.split(":") for entry in block.split())
    return MappingProxyType({a.replace("_", " "): b.replace("_", " ") for a, b in pairs})


PLURALS = _table(
    """
    child:children foot:feet tooth:teeth goose:geese mouse:mice man:men woman:women ox:oxen
    person:people leaf:leaves knife:knives wife:wives life:lives wolf:wolves shelf:shelves
    half:halves loaf:loaves thief:thieves calf:calves self:selves city:cities baby:babies
    story:stories country:countries party:parties family:families lady:ladies puppy:puppies
    berry:berries army:armies fly:flies spy:spies sky:skies body:bodies copy:copies duty:duties
    enemy:enemies penny:pennies factory:factories library:libraries box:boxes bus:buses
    dish:dishes church:churches match:matches watch:watches bench:benches brush:brushes
    class:classes glass:glasses dress:dresses kiss:kisses fox:foxes tax:taxes boss:bosses
    beach:beaches peach:peaches branch:branches wish:wishes bush:bushes coach:coaches
    hero:heroes potato:potatoes tomato:tomatoes echo:echoes piano:pianos photo:photos
    radio:radios video:videos studio:studios zoo:zoos key:keys day:days boy:boys toy:toys
    monkey:monkeys valley:valleys donkey:donkeys turkey:turkeys tray:trays chief:chiefs
    belief:beliefs cliff:cliffs analysis:analyses crisis:crises basis:bases thesis:theses
    phenomenon:phenomena criterion:criteria sheep:sheep deer:deer series:series
    species:species dog:dogs car:cars tree:trees house:houses horse:horses bridge:bridges
    garden:gardens teacher:teachers window:windows apple:apples river:rivers spoon:spoons
    gentleman:gentlemen policeman:policemen fireman:firemen grandchild:grandchildren
    housewife:housewives butterfly:butterflies cherry:cherries diary:diaries
    """
)

PAST_TENSES = _table(
    """
    go:went eat:ate see:saw take:took give:gave come:came run:ran write:wrote drive:drove
    break:broke speak:spoke choose:chose freeze:froze steal:stole wake:woke ride:rode
    rise:rose fall:fell feel:felt keep:kept sleep:slept sweep:swept meet:met leave:left
    lose:lost find:found bring:brought buy:bought think:thought teach:taught catch:caught
    fight:fought seek:sought sing:sang ring:rang swim:swam drink:drank sink:sank begin:began
    grow:grew know:knew throw:threw blow:blew fly:flew draw:drew build:built send:sent
    spend:spent lend:lent bend:bent sit:sat win:won hold:held tell:told sell:sold stand:stood
    understand:understood forget:forgot get:got shoot:shot make:made pay:paid say:said
    hear:heard have:had do:did wear:wore tear:tore swear:swore hide:hid bite:bit feed:fed
    lead:led bleed:bled dig:dug stick:stuck hang:hung cut:cut put:put hit:hit hurt:hurt
    shut:shut cost:cost let:let become:became forgive:forgave shake:shook mistake:mistook
    stop:stopped plan:planned drop:dropped hug:hugged beg:begged rub:rubbed clap:clapped
    carry:carried study:studied try:tried cry:cried hurry:hurried marry:married copy:copied
    worry:worried play:played stay:stayed enjoy:enjoyed walk:walked talk:talked jump:jumped
    open:opened listen:listened visit:visited paint:painted want:wanted need:needed
    decide:decided arrive:arrived smile:smiled dance:danced hope:hoped bake:baked love:loved
    """
)

PARTICIPLES = _table(
    """
    run:running sit:sitting swim:swimming stop:stopping plan:planning cut:cutting put:putting
    begin:beginning win:winning dig:digging hug:hugging shop:shopping clap:clapping
    make:making take:taking write:writing drive:driving dance:dancing smile:smiling
    ride:riding bake:baking hope:hoping come:coming leave:leaving give:giving live:living
    use:using close:closing choose:choosing lose:losing have:having move:moving save:saving
    lie:lying die:dying tie:tying play:playing stay:staying study:studying carry:carrying
    try:trying cry:crying fly:flying buy:buying enjoy:enjoying read:reading eat:eating
    sleep:sleeping walk:walking talk:talking sing:singing drink:drinking think:thinking
    bring:bringing catch:catching teach:teaching speak:speaking break:breaking see:seeing
    go:going do:doing feel:feeling keep:keeping build:building stand:standing hold:holding
    """
)

CAPITALS = _table(
    """
    France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Greece:Athens
    Austria:Vienna Belgium:Brussels Denmark:Copenhagen Sweden:Stockholm Norway:Oslo
    Finland:Helsinki Iceland:Reykjavik Ireland:Dublin Poland:Warsaw Hungary:Budapest
    Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade Croatia:Zagreb Slovenia:Ljubljana
    Slovakia:Bratislava Ukraine:Kyiv Russia:Moscow Turkey:Ankara Egypt:Cairo
    Morocco:Rabat Tunisia:Tunis Algeria:Algiers Libya:Tripoli Kenya:Nairobi Ethiopia:Addis_Ababa
    Ghana:Accra Nigeria:Abuja Senegal:Dakar Uganda:Kampala Rwanda:Kigali Zambia:Lusaka
    Zimbabwe:Harare Angola:Luanda Sudan:Khartoum Japan:Tokyo China:Beijing India:New_Delhi
    Pakistan:Islamabad Bangladesh:Dhaka Nepal:Kathmandu Thailand:Bangkok Vietnam:Hanoi
    Cambodia:Phnom_Penh Philippines:Manila Indonesia:Jakarta Malaysia:Kuala_Lumpur
    Mongolia:Ulaanbaatar Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut Jordan:Amman
    Qatar:Doha Oman:Muscat Afghanistan:Kabul Australia:Canberra New_Zealand:Wellington
    Canada:Ottawa Mexico:Mexico_City Cuba:Havana Jamaica:Kingston Argentina:Buenos_Aires
    Chile:Santiago Peru:Lima Colombia:Bogota Venezuela:Caracas Ecuador:Quito Uruguay:Montevideo
    Paraguay:Asuncion Brazil:Brasilia Cyprus:Nicosia Malta:Valletta Latvia:Riga Estonia:Tallinn
    Lithuania:Vilnius Albania:Tirana Armenia:Yerevan Panama:Panama_City Haiti:Port-au-Prince
    """
)

OPPOSITES = _table(
    """
    hot:cold big:small up:down happy:sad fast:slow early:late young:old open:closed dark:light
    rich:poor strong:weak hard:soft black:white day:night left:right true:false in:out
    love:hate good:bad long:short high:low tall:short wet:dry thick:thin full:empty deep:shallow
    wide:narrow heavy:light loud:quiet clean:dirty rough:smooth sharp:dull alive:dead
    asleep:awake brave:cowardly cheap:expensive win:lose push:pull buy:sell give:take
    begin:end start:finish arrive:depart enter:exit remember:forget laugh:cry north:south
    east:west summer:winter heaven:hell friend:enemy peace:war life:death success:failure
    success:failure always:never everything:nothing before:after above:below inside:outside
    near:far same:different simple:complex ancient:modern guilty:innocent public:private
    male:female positive:negative maximum:minimum increase:decrease accept:reject
    forward:backward top:bottom first:last better:worse best:worst more:less major:minor
    optimistic:pessimistic internal:external temporary:permanent victory:defeat
    question:answer birth:death beautiful:ugly polite:rude lazy:hardworking
    """
)
