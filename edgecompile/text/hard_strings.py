"""Strings that tokenizers get wrong: every engine must give the source tokenizer's ids on each."""
# ruff: noqa: E501, RUF001 (data: one subject a line, and characters that look like others)
from __future__ import annotations

import unicodedata

DIGITS = """
0|7|42|007|1234567890|3.14159|1,234,567.89|1e-12|6.02E+23|0x1F4A9|0b1011|2024-02-29|23:59:60|+1 (555) 010-9999
192.168.0.1|v2.10.3-rc1|½ + ¼ = ¾|①②③|Ⅳ Ⅻ ⅷ|٠١٢٣٤٥٦٧٨٩|१२३४५६७८९०|１２３４５|5²+x³=10⁻⁶|H₂O CO₂|99.99%|$1,000.00
€5|£12|¥3000|₹ 4500|1st 2nd 3rd 4th|12345678901234567890123456789012345678901234567890|1 000 000|4:3|16×9|−40 °C
""".strip()

EMOJI = """
😀|😀😃😄|👍🏽|👩‍👩‍👧‍👦|🏳️‍🌈|🏴‍☠️|👨🏿‍🚀|🇩🇪🇫🇷🇯🇵|🇩|❤️|❤|☎️ vs ☎|1️⃣2️⃣|🧑‍💻 codes|text😀text|😀 text|🤷🏻‍♀️|🫠|🪿
👁️‍🗨️|🏴󠁧󠁢󠁥󠁮󠁧󠁿|(╯°□°)╯︵ ┻━┻|¯\\_(ツ)_/¯|:-) ;-( <3|🎉🎉🎉🎉🎉🎉🎉🎉|☃❄☀|♠♥♦♣|𓀀𓂀|🀄🂡|🈁🆗
""".strip()

SCRIPTS = """
你好，世界！|中文字符没有空格|繁體中文測試|今天天气很好。|漢字とひらがなとカタカナ|ｶﾀｶﾅ|東京2020|日本語テキスト、句読点。|がぎぐげご|𠮷野家|㍿㌔㍉|〇一二三|ㄅㄆㄇㄈ
안녕하세요 세계|한국어|ㅋㅋㅋ|뷁|각|힣|대한민국 2024년|नमस्ते दुनिया|क्षत्रिय|हिन्दी में|की|क़|বাংলা ভাষা|ক্ষ|தமிழ்|நி|తెలుగు|ಕನ್ನಡ|മലയാളം|ગુજરાતી|ਪੰਜਾਬੀ|සිංහල|ශ්‍රී
ภาษาไทยไม่มีช่องว่าง|น้ำ|ລາວ|ខ្មែរ|မြန်မာ|བོད་ཡིག|ქართული|ᲥᲐᲠᲗᲣᲚᲘ|Հայերեն|ελληνικά|Ἀρχιμήδης|ΌΣΟΣ όσος|русский язык|Ёлка ёлка|Українська|Љубав|монгол|ᠮᠣᠩᠭᠣᠯ|አማርኛ|ⵜⴰⵎⴰⵣⵉⵖⵜ
مرحبا بالعالم|السَّلَامُ عَلَيْكُمْ|لا|ﻻ|فارسی می‌خواهم|اردو|پښتو|کُردی|עברית|שָׁלוֹם|ייִדיש|ܐܪܡܝܐ|ދިވެހި|مرحبا hello שלום|١٢٣ abc|ـــ|ﷺ|Ꮳꮃꭹ|ᐃᓄᒃᑎᑐᑦ|ꦗꦮ|𐌰𐌱𐌲|𝕳𝖊𝖑𝖑𝖔 𝔀𝓸𝓻𝓵𝓭|Ｆｕｌｌｗｉｄｔｈ
""".strip()

ACCENTS = """
café|naïve façade|Zürich|Ångström|Ærøskøbing|Þórr|Łódź|Dvořák|Çağrı ışık İstanbul|ğĞıİ|Việt Nam|Tiếng Việt rất khó|Štěpán|œuvre|Straße STRASSE ẞ|ñandú|Pinyin nǐ hǎo|ǆ ǅ Ǆ|ﬁ ﬂ ﬃ
Āēīōū|ŵŷ|ħ|ŉ|ſ|K Å Ω|résumé résumé|Ĳssel|ȘȚ ŞŢ|a̐éö̲|Z̸͖̀a̷̧l̶̞g̵̪o̴̡|ö̧̤|é́́́
""".strip()

LITERAL_SPECIALS = """
[CLS]|[SEP]|[PAD]|[UNK]|[MASK]|[CLS] a [SEP] b [SEP]|a[MASK]b|[mask]|[ MASK ]|[unused1]|<s>|</s>|<s>text</s>|<unk>|<pad>|<mask>|<bos>|<eos>|<|endoftext|>|a<|endoftext|>b|<|im_start|>|<|im_end|>
<|im_start|>user hi<|im_end|>|<|im_start|>system<|im_end|>|< |im_start| >|<|begin_of_text|>|<|eot_id|>|<|start_header_id|>user<|end_header_id|>|<start_of_turn>model|<end_of_turn>|[INST] hi [/INST]|<<SYS>>|<think></think>
<0x0A>|<0xFF>|▁|▁a ▁▁b|Ġ|ĠĊ|##ing|a ##b|</w>|<extra_id_0>|<image>|<file_sep>|<repo_name>|<|end|>|<|user|>|<|assistant|>|<empty_output>|<jupyter_code>|\\n|&lt;s&gt;|%3Cs%3E
""".strip()

CODE = """
https://example.org/a/b?c=d&e=%20f#g|ftp://user@host:21/x.y|someone.else+tag@mail.example.co.uk|file:///C:/Windows/System32|www.example.com|C:\\path\\to|/usr/lib/python3.11/site-packages|~/.bashrc|#hashtag @mention
def f(x): return x**2|for(int i=0;i<n;++i){a[i]+=b;}|if (a && !b) c ^= d;|SELECT * FROM t WHERE x != 'y';|<div class="a">b</div>|{"k": [1, null, true]}|\\frac{a}{b}|$HOME/${x}|a->b::c.d|x = y ?? z;|lambda: ...|__init__
camelCaseHTTPServer|snake_case_name|kebab-case-name|SCREAMING_CASE|don't won't I'll we've they're it's|DON'T|rock 'n' roll|"quoted" 'single' “curly” ‘quotes’ «guillemets» „low“|em—dash en–dash hy-phen|ellipsis… ...|a/b\\c
!!!???|..........|-----|=====|*****|~~~~~|^_^|a.b.c.d|e.g. i.e. etc.|U.S.A.|Mr. O'Neill-Smith|100%sure|C++ C# F#|R&D AT&T|¿Qué? ¡Sí!|§5 ¶6 †‡|→←↑↓⇒|∀x∈ℝ: ∃y ≤ x|∑∏∫√∞≠≈|™®©|`a` ``b``|((((a))))|[[[]]]|{}|<>|;:,.
""".strip()

MIXED = """
Hello世界мирمرحبا|iPhone是Apple的|АA ВB ОO|abcабв123١٢٣|тест-test-テスト|naïve你好naïve|日本語and English混在|Ω≈ç√∫˜µ|a한b글c|नमस्ते hello 你好 😀|E=mc² 能量|ΑΒΓabc|mañana明日завтра|1人2人3人|A你B好C
THE QUICK BROWN FOX|the quick brown fox|ThE qUiCk BrOwN fOx|ßẞſs|ILIKE|iıIİ|ΣΑΣ σας|ŐŰ őű|a|I|.|é|好|अ|ก|the the the the the the|Buffalo buffalo Buffalo buffalo
""".strip()

SPACES = (
    "", " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n\n", " \n ", "\t\t\t", " a", "a ", "  a  b  ", "a  b", "a   b", "a    b",
    "a\tb", "a\t\tb", "a\nb", "a\n\nb", "a\r\nb", "a\rb", " \t\n\r ", "a" + " " * 50 + "b", "\n" * 20, "    indented", "\tdef f():\n\t\treturn",
    "line\n    next\n        deeper", "a\u00a0b", "a\u2003b", "a\u3000b", "a\u202fb", "a\u2028b", "a\u2029b", "a\u0085b", "a\u1680b", "a\x0bb", "a\x0cb",
    "trailing\n", "trailing   ", "\nleading", "a \n b", "a,\nb", "x  \n\n  y", "end.  Two spaces",
)  # fmt: skip

INVISIBLE = (
    "a\u200bb", "a\u200cb", "a\u200db", "\u200b", "\ufeffa", "a\ufeff", "a\u2060b", "a\u00adb", "\u202eabc\u202c", "\u200fabc", "\u2066a\u2069",
    "\x01", "a\x02b", "\x07bell", "\x08", "\x1b[31mred\x1b[0m", "\x7f", "a\x80b", "\x9f", "a\u034fb", "\u061c", "\ufe0f", "\u0301", "\u0301\u0302",
    "a\u0301", "\u0e31", "\u093f", "\u20dd", "\ue000", "a\uf8ffb", "\U000f0000", "\U0010fffd", "\ufffd", "a\ufffdb", "\ufffc", "\ufdd0", "\uffff",
    "\U0001fffe", "\U000e0001", "\U000e0041", "\u2800", "\u3164", "\u115f", "a\u180eb", "\u0600", "\u17b4",
)  # fmt: skip

LONG = (
    "a" * 100, "a" * 101, "a" * 128, "a" * 300, "ab" * 80, "A" * 120, "antidisestablishmentarianism" * 5, "0" * 150, "9876543210" * 15,
    "." * 120, "é" * 110, "е" * 110, "你" * 110, "한" * 110, "😀" * 60, "-" * 200, "_" * 130, "ACGT" * 40, "f47ac10b58cc4372a5670e02b2c3d479" * 5,
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenbefestigungsschraubenschlüsselkastenaufkleberrolle",
    "c3VwZXJjYWxpZnJhZ2lsaXN0aWNleHBpYWxpZG9jaW91cw==" * 4, "a\u0301" * 70, "न्" * 60, "word " * 120, "x" * 99 + " " + "y" * 101,
)  # fmt: skip

# Composed and decomposed forms of these are both asked, where they differ.
TWO_FORMS = (
    "café", "Zürich", "Ångström", "Việt Nam", "한국어", "각", "힣", "뷁", "안녕하세요", "がぎぐげご", "パピプペポ", "क़", "Ἀρχιμήδης", "שָׁלוֹם",
    "Dvořák", "ñandú", "Łódź", "Ёлка й", "ǖ", "résumé", "ﬁ", "Å", "ক্ষো", "കൊ", "དྷ",
)  # fmt: skip


def hard_strings() -> tuple[str, ...]:
    """All of them (some 470), each once, in a fixed order."""
    blocks = (DIGITS, EMOJI, SCRIPTS, ACCENTS, CODE, MIXED)
    found = [text for block in blocks for line in block.split("\n") for text in line.split("|")]
    found += _specials()
    found += [*SPACES, *INVISIBLE, *LONG]
    found += [unicodedata.normalize(form, text) for text in TWO_FORMS for form in ("NFC", "NFD")]
    return tuple(dict.fromkeys(found))


def _specials() -> list[str]:
    """Special tokens as a user may type them; a bar inside <|...|> does not separate."""
    marked = LITERAL_SPECIALS.replace("<|", "<\0").replace("|>", "\0>")
    marked = marked.replace("< |im_start| >", "< \0im_start\0 >")
    pieces = [text for line in marked.split("\n") for text in line.split("|")]
    return [text.replace("\0", "|") for text in pieces]
