"""Grammars that would never end, or fill the memory; with what is said of each."""

DIGITS = " | ".join(f"'{digit}'" for digit in range(10))


def lexicon(n: int) -> str:
    """Write the lines of n nouns that differ in the feature NAME."""
    return "CLASS,WORD,NAME\n" + "".join(f"N,noun{i},name{i}\n" for i in range(n))


def grammar(*rules: str, column: str = "sentence.F", lines: str = "") -> str:
    return "\n".join([lines, f"%column x = {column}", *rules])


def operators(expression: str) -> str:
    return grammar("S -> 'a'", column=expression)


def doubled(word: str, start: str = "S[F=1] -> A30") -> str:
    rules = [f"A{i} -> A{i - 1} A{i - 1}" for i in range(1, 31)]
    return grammar(start, *rules, f"A0 -> {word}")


WORDS = "%lexicon words.csv"
MANY = "sentences; expected at most"
STEPS = "steps on the way"

BOMBS: dict[str, tuple[str, str]] = {
    "a thousand million sentences of nine digits": (
        grammar("S[F=1] -> " + "D " * 9, f"D -> {DIGITS}"),
        rf"1e\+09 {MANY}",
    ),
    "the same, one digit after another": (
        grammar(
            "S[F=1] -> D1",
            *(f"D{i} -> D D{i + 1}" for i in range(1, 9)),
            *("D9 -> D", f"D -> {DIGITS}"),
        ),
        rf"1e\+09 {MANY}",
    ),
    "a word doubled 30 times": (doubled("'a'"), r"1.07e\+09 words in all sentences"),
    "two words doubled 30 times": (doubled("'a' | 'b'"), f"inf {MANY}"),
    "doubled as features count down": (
        grammar(
            "S[F=1] -> P[DEPTH=38]",
            *(f"P[DEPTH={i}] -> P[DEPTH={i - 1}] P[DEPTH={i - 1}]" for i in range(1, 39)),
            "P[DEPTH=0] -> 'a' | 'b'",
        ),
        f"inf {MANY}",
    ),
    "five nouns of a lexicon": (
        grammar("S -> N[ROLE=s] N N N N", column="s.LEMMA", lines=WORDS),
        MANY,
    ),
    "more different nouns than there are": (
        grammar("S -> N[ROLE=s] " + "N " * 60, column="s.LEMMA", lines=f"{WORDS}\n%distinct N"),
        MANY,
    ),
    "what agrees with nothing in the end": (
        grammar(
            "S -> N[ROLE=s, NAME=?a] N N N N M[NAME=?a]",
            *("M[NAME=none] -> 'm'", "M[NAME=?a] -> K[NAME=?a]", "K[NAME=none] -> 'k'"),
            column="s.LEMMA",
            lines=WORDS,
        ),
        STEPS,
    ),
    "features of all nouns": (
        grammar(
            "S[A=?a, B=?b, C=?c, D=?d] -> N[ROLE=s, NAME=?a] N[NAME=?b] N[NAME=?c] N[NAME=?d]",
            "S[A=1, B=1, C=1, D=1] -> 'nothing'",
            column="s.LEMMA",
            lines=WORDS,
        ),
        "phrases that differ in their features",
    ),
    "a sentence begins with a sentence": (
        grammar("S[F=1] -> S 'a' | 'b'"),
        "endless recursion",
    ),
    "a sentence of two sentences": (
        grammar("S[F=1] -> 'b'", "S -> S S"),
        "endless recursion",
    ),
    "a phrase of itself": (grammar("S[F=1] -> T", "T -> T"), "endless recursion"),
    "two phrases of each other": (
        grammar("S[F=1] -> T", "T -> U 'a' | 'b'", "U -> T U | T"),
        "endless recursion",
    ),
    "20,000 operators": (
        operators("not " * 20_000 + "sentence.F"),
        "10,000 characters",
    ),
    "2,000 operators": (
        operators("not " * 2_000 + "sentence.F"),
        "nests too deep",
    ),
    "200 operators": (operators("not " * 200 + "sentence.F"), "nests too deep"),
    "200 choices": (
        operators("1 if sentence.F else " * 200 + "2"),
        "nests too deep",
    ),
    "2,000 parentheses": (
        operators("(" * 2_000 + "sentence.F" + ")" * 2_000),
        "is no expression|nests too deep",
    ),
    "2,000 dots": (
        operators("sentence" + ".F" * 2_000),
        "nests too deep|no expression",
    ),
    "a number of 5,000 digits": (operators("9" * 5_000), "is no expression"),
    "a rule of 100,000 words": (
        grammar("S[F=1] -> " + "'a' " * 100_000),
        "more than 10,000 characters",
    ),
    "a rule that goes on for 100,000 lines": (
        grammar("S[F=1] -> 'a' \\", *["'a' \\"] * 100_000),
        "more than 10,000 characters",
    ),
    "2,000 constituents in one another": (
        grammar("S[F=1] -> " + "D " * 2_000, "D -> 'a'"),
        "too many constituents",
    ),
    "2,000 features in one another": (
        grammar("S[F=" + "[A=" * 2_000 + "1" + "]" * 2_000 + "] -> 'a'"),
        "no rule of a feature grammar",
    ),
    "four drawn of a word doubled 30 times": (
        doubled("'a'", "%sample 4\nS[F=1] -> A30"),
        "no sentence found in 20,000 steps",
    ),
    "four drawn of what agrees with nothing in the end": (
        grammar(
            "S -> N[ROLE=s, NAME=?a] N N N N M[NAME=?a]",
            *("M[NAME=none] -> 'm'", "M[NAME=?a] -> K[NAME=?a]", "K[NAME=none] -> 'k'"),
            column="s.LEMMA",
            lines=f"{WORDS}\n%sample 4",
        ),
        "no sentence found in 20,000 steps",
    ),
    "four drawn of a phrase of itself": (
        grammar("%sample 4", "S[F=1] -> T", "T -> T"),
        "endless recursion",
    ),
    "a word with NUL": (grammar("S[F=1] -> D 'a\0b'", f"D -> {DIGITS}"), "expected text"),
}
"""Grammar, and a regular expression of what is said; `words.csv` is beside it."""
