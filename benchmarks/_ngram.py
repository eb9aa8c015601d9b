"""Witten-Bell n-grams of a text, the simplest honest baseline: `python -m benchmarks._ngram shakespeare.txt`.

    p(s | h) = (count(h s) + distinct(h) · p(s | h without its first)) / (count(h) + distinct(h)),   uniform below all

Of a history that is not the longest, `count` is either all it was followed by, or what is left when each symbol before it
counts once (Kneser & Ney 1995: how many different symbols stand before h s).  Bits per character of tiny Shakespeare's last
tenth, counted on the first nine; history is what is before a symbol in the text, or in its window of 256 only, a window's
first symbol predicted from nothing:

    symbols of history     all counts: text, windows     each once: text, windows
    4 (5-gram)             2.408, 2.422                  2.262, 2.290
    5 (6-gram)             2.450, 2.462                  2.246, 2.274

Source: Witten & Bell (1991), IEEE Transactions on Information Theory 37; Kneser & Ney (1995), ICASSP.
"""

import math
import sys
from collections import Counter, defaultdict
from pathlib import Path


def split_text(path):
    """A text as numbers: its first nine tenths, its last tenth, and how many symbols there are."""
    text = Path(path).read_text(encoding="utf-8")
    codes = {c: i for i, c in enumerate(sorted(set(text)))}
    x, cut = [codes[c] for c in text], len(text) * 9 // 10
    return x[:cut], x[cut:], len(codes)


def counted(train, history, once):
    """For each number of symbols of history: history → symbol → count."""
    tables, seen = [defaultdict(Counter) for _ in range(history + 1)], set()
    for i, symbol in enumerate(train):
        for n in range(min(history, i) + 1):
            if once and n < history:
                whole = tuple(train[i - n - 1 : i + 1]) if i > n else None
                if whole is None or whole in seen:
                    continue
                seen.add(whole)
            tables[n][tuple(train[i - n : i])][symbol] += 1
    return tables


def bits_per_symbol(train, test, symbols, history, once=False, window=None):
    """Bits per symbol of a text; only whole windows count where there are such."""
    tables = counted(train, history, once)
    totals = [{h: (sum(c.values()), len(c)) for h, c in table.items()} for table in tables]
    size = len(test) if window is None else len(test) // window * window
    bits = 0.0
    for i in range(size):
        p, before = 1 / symbols, i if window is None else i % window
        for n in range(min(history, before) + 1):
            h = tuple(test[i - n : i])
            if h in totals[n]:
                total, distinct = totals[n][h]
                p = (tables[n][h][test[i]] + distinct * p) / (total + distinct)
        bits -= math.log2(p)
    return bits / size


def main():
    train, test, symbols = split_text(sys.argv[1])
    for history in (4, 5):
        for once in (False, True):
            found = [bits_per_symbol(train, test, symbols, history, once, window) for window in (None, 256)]
            print(history, "each once" if once else "all counts", *(f"{bits:.4f}" for bits in found), flush=True)


if __name__ == "__main__":
    main()
