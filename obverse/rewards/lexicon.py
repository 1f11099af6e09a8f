"""Lists of English words that the verifiers use."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _in_order(text: str) -> list[str]:
    return text.split()


ONES = _in_order(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
    """
)
TENS = _in_order("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = _in_order(
    """
    zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
    """
)
MONTHS = _words("january february march april may june july august september october november december")
FUNCTIONS = _words(
    """
    arccos arcsin arctan cos cosh cot csc det exp gcd lcm lg ln log max min mod pi sec sin sinh sqrt tan tanh
    """
)

# Words of two letters, which are not a product of two variables.
SHORT_WORDS = _words(
    """
    ad ah am an as at be by do eh go he hi if in is it la lo ma me my no of oh ok on or ox pa so to up us we
    """
)

# Words between two boxes that offer a choice.
JOINT_WORDS = _words(
    """
    a again also alternative alternatively and another as b be both but c candidate candidates case choice choices
    could d e either else even i if ii iii is it iv land lor mathrm maybe mid might ne neq not one option options or
    other otherwise perhaps possibly probably qquad quad rather text than the though to v vee versus vs wedge well
    yet plus cup first second third guess guesses possible possibility odd attempt
    n x y k m
    """
)

# Nouns in the plural without an s.
PLURALS = _words(
    "aircraft cattle data deer dice fish geese homework mice oxen pence pieces police series sheep species staff teeth"
)

# Words that change, compare or question a number, and closed-class words: text with one of them is not a unit.
DENIED = _words(
    """
    thous mln mil basis bps ppm myriad myriads max tops tip legion googols ballpark below best worst
    a about above after again against all almost also although an and another any anything apart approaching are
    around as at back bad bc bce be because been before being below besides between beyond billions both but by can
    cannot certainly circa cos could crores cube cubed cubes debt decreased deficit despite did different divided do
    does doubled doubtful down eight eighteen eighth eighths eighty either eleven else equal equals estimate
    estimated estimates even except excluding exclusive exp factorial fake false fifteen fifth fifths fifty first
    five for forty four fourteen fourth fourths from googol grand greater gross grossly guess guessed had half
    halved halves has have having he her him his hopefully how however hundreds hundredth hundredths if imaginary
    impossible in including inclusive incorrect incorrectly increased inf infinite infinity infty into invalid
    inverse inversely is ish isn it its just k lakhs less lest likely ln log loss lost lower maximum may maybe me
    might millions minimum minus missing mistake mod modulo more moreover most multiplied must nan nearly negated
    negative neither never nine nineteen ninety ninth ninths no none nor not nothing nought nth null odd of off on
    once one ones only opposite optional or order other otherwise ought out over overestimate owed part pct per
    percentile perhaps pi plus point positive possible possibly power prime probably quadrillion quadrupled quarter
    quarters quartic quintillion rather reciprocal reduced remainder root rooted roughly same scaled score scores
    seven seventeen seventh sevenths seventy short should sin since six sixteen sixth sixths sixty so some something
    sorry sqrt square squared squares such sum suppose surely surplus tan ten tens tenth tenths than that the their
    then there therefore these they third thirds thirteen thirty this though thousands thousandth thousandths three
    thrice through thus till to too trillions tripled twelfth twelfths twelve twenty twice two undefined under
    underestimate undone unknown unless unlike until up upon upper us use varies versus very via vs wait was we were
    what when where whereas whether which while who whole why will with within without would wrong wrongly yes yet
    you zero
    """
)

# A base, a factor, and the names of the unit that equals the factor times the base.
UNITS = """
    m:1 m meter meters metre metres; m:1000 km kilometer kilometers kilometre kilometres; m:1/10 dm; m:1/100 cm
    centimeter centimeters centimetre centimetres; m:1/1000 mm millimeter millimeters millimetre millimetres;
    m:1/1000000 um micrometer micrometers micron microns; m:1/1000000000 nm nanometer nanometers; m:0.0254 in inch
    inches; m:0.3048 ft foot feet; m:0.9144 yd yard yards; m:1609.344 mi mile miles; s:1 s sec secs second seconds;
    s:1/1000 ms millisecond milliseconds; s:60 min mins minute minutes; s:3600 h hr hrs hour hours; s:86400 day
    days; s:604800 week weeks; month:1 month months; month:12 yr yrs year years; g:1 g gram grams gramme grammes;
    g:1000 kg kgs kilogram kilograms kilo kilos; g:1/1000 mg milligram milligrams; g:1000000 tonne tonnes; lb:1 lb
    lbs pound pounds; lb:1/16 oz ounce ounces; ton:1 ton tons; l:1 l L liter liters litre litres; l:1/1000 ml mL
    milliliter milliliters millilitre millilitres; gallon:1 gal gallon gallons; quart:1 qt quart quarts; pint:1 pt
    pint pints; cup:1 cup cups; usd:1 dollar dollars usd USD buck bucks; usd:1/100 cent cents penny pennies; eur:1
    euro euros EUR; gbp:1 GBP; jpy:1 yen JPY; inr:1 rupee rupees INR Rs; cny:1 yuan RMB CNY; peso:1 peso pesos;
    franc:1 franc francs; degree:1 degree degrees deg; radian:1 rad rads radian radians; celsius:1 celsius Celsius;
    fahrenheit:1 fahrenheit Fahrenheit; kelvin:1 kelvin kelvins; hz:1 Hz hertz; hz:1000 kHz; hz:1000000 MHz; N:1 N
    newton newtons; J:1 J joule joules; J:1000 kJ; W:1 W watt watts; W:1000 kW; V:1 V volt volts; C:1 C coulomb
    coulombs; A:1 A amp amps ampere amperes; Pa:1 Pa pascal pascals; Pa:1000 kPa; F:1 farad farads; ohm:1 ohm ohms;
    mol:1 mol mole moles; eV:1 eV; T:1 tesla; bit:1 bit bits; byte:1 byte bytes; atm:1 atm; person:1 person persons
    people; child:1 child children; man:1 man men; woman:1 woman women; acre:1 acre acres; hectare:1 hectare
    hectares; unit:1 unit units; cal:1 calorie calories
"""
