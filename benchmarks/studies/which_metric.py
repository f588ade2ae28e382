"""Writes the tables of docs/which-metric.md and docs/which-nc1.md: what papers and code print.

python benchmarks/studies/which_metric.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import ncfast
from ncfast.benchmarks.plain.printed import CLASSES, CODE, COUNT, DIM, Printed, Sample
from ncfast.benchmarks.report import text
from ncfast.metrics.catalogue import CATALOGUE, STANDALONE

DOCS = Path(__file__).resolve().parents[2] / "docs"
# links of papers whose source in the catalogue has no number of arXiv
ARXIV = {
    "Papyan, Han & Donoho 2020": "2008.08186",
    "Han, Papyan & Donoho 2022": "2106.02073",
    "Tirer, Huang & Niles-Weed 2023": "2211.02865",
    "Galanti, György & Hutter 2021": "2112.15121",
    "Zhu et al. 2021": "2105.02375",
    "Garrido et al. 2023": "2210.02885",
}
PAPER = re.compile(
    r"\b((?:[A-Z][\w.-]+, )?[A-Z][\w-]+(?: [A-Z][\w-]+)?(?: & [A-Z][\w-]+| et al\.)? \d{4})"
)
NUMBER = re.compile(r"arXiv (\d{4}\.\d{5})")


def samples() -> dict[str, Sample]:
    """The same classes twice: of equal sizes, and of sizes 1 : 2 : ... : 10."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    means = normal(CLASSES, DIM) + 0.5
    noise = 1.2 * normal(COUNT, DIM)
    weight = means - means.mean(0) + 0.5 * normal(CLASSES, DIM)
    bias, ood = normal(CLASSES), normal(200, DIM)
    sizes = torch.arange(1, CLASSES + 1)
    uneven = torch.arange(CLASSES).repeat_interleave(sizes).repeat(COUNT // int(sizes.sum()) + 1)
    found = {}
    for name, labels in (("equal", torch.arange(COUNT) % CLASSES), ("unequal", uneven[:COUNT])):
        found[name] = Sample(means[labels] + noise, labels, weight, bias, ood)
    return found


def number(value: float) -> str:
    return f"{value:.4g}"


def value_of(printed: Printed, x: Sample) -> float:
    """The value of the id, with the arguments that the relation names."""
    if "bias=−b" in printed.relation:
        x = x._replace(bias=-x.bias)
    return x.metrics()[printed.id]


def code_table() -> str:
    """One table a code base: what it prints, the id, and how the two are related."""
    head = ["it prints", "equal", "unequal", "id", "printed ="]
    parts = []
    for base, numbers in CODE.items():
        rows = [
            [
                f"`{printed.name}`",
                *(number(printed.prints(x)) for x in samples().values()),
                f"`{printed.id}`",
                printed.relation,
            ]
            for printed in numbers
        ]
        parts.append(f"### {base}\n\n{text.table(head, rows, 1, 3)}")
    return "\n\n".join(parts)


def papers(source: str) -> Iterator[tuple[str, str | None]]:
    """The papers that a source of the catalogue names, with their numbers on arXiv."""
    for part in source.replace("public code of arXiv 2509.20829", "Sakamoto & Sato 2025").split(
        ";"
    ):
        for name in PAPER.findall(part):
            found = NUMBER.search(part)
            yield name, found[1] if found else ARXIV.get(name)


def paper_table() -> str:
    """Every paper of the catalogue, its ids, and their values."""
    values = [x.metrics() for x in samples().values()]
    ids: dict[str, list[str]] = {}
    links: dict[str, str] = {}
    known = {**CATALOGUE, **STANDALONE}
    for name, metric in known.items():
        for paper, link in papers(metric.source):
            ids.setdefault(paper, []).append(name)
            if link:
                links[paper] = link
    rows = []
    for paper, names in ids.items():
        link = f"[{paper}](https://arxiv.org/abs/{links[paper]})" if paper in links else paper
        for name in names:
            says, numbers = known[name].direction, [number(v[name]) for v in values if name in v]
            if not numbers:  # a call of its own
                says, numbers = f"{says} (`{ncfast.describe(name).call}`)", ["", ""]
            rows.append([link, f"`{name}`", says, *numbers])
            link = ""
    return text.table(["paper", "id", "says", "equal", "unequal"], rows, 3)


def information_table() -> str:
    """Estimators of information: the paper, the call, its value, and what packages print."""
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    draw = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    z = normal(2000)
    x, y = (0.9**0.5 * z + 0.1**0.5 * normal(2000) for _ in range(2))  # their correlation is 0.9
    wide, labels = normal(200, 64), (z > 0).long()
    regression = mutual_info_regression(x[:, None].numpy(), y.numpy(), random_state=0)[0]
    classif = mutual_info_classif(x[:, None].numpy(), labels.numpy(), random_state=0)[0]
    plain = {"preprocess": None, "metric": "linf"}
    scaled = {"k": 3, "preprocess": "standardize", "metric": "linf"}
    calls: list[tuple[str, str, float, float | None]] = [
        (
            "Kraskov, Stögbauer & Grassberger 2004, first estimator",
            'mutual_information(x, y, method="ksg", metric="linf", preprocess=None)',
            float(ncfast.mutual_information(x, y, method="ksg", **plain)),
            None,
        ),
        (
            "the same, second estimator",
            'mutual_information(x, y, method="ksg2", metric="linf", preprocess=None)',
            float(ncfast.mutual_information(x, y, method="ksg2", **plain)),
            None,
        ),
        (
            "scikit-learn, `mutual_info_regression`",
            'mutual_information(x, y, k=3, method="ksg", metric="linf", preprocess="standardize")',
            float(ncfast.mutual_information(x, y, method="ksg", **scaled)),
            float(regression),
        ),
        (
            "Gao et al. 2017",
            'mutual_information(x, y, method="mixed", metric="linf", preprocess=None)',
            float(ncfast.mutual_information(x, y, method="mixed", **plain)),
            None,
        ),
        (
            "Kozachenko & Leonenko 1987, three entropies",
            'mutual_information(x, y, method="kl")',
            float(ncfast.mutual_information(x, y, method="kl")),
            None,
        ),
        (
            "Ross 2014",
            "label_information(x, labels)",
            float(ncfast.label_information(x, labels)),
            None,
        ),
        (
            "scikit-learn, `mutual_info_classif`",
            "label_information(x, labels, k=3)",
            float(ncfast.label_information(x, labels, k=3)),
            float(classif),
        ),
        (
            "Frenzel & Pompe 2007",
            "conditional_mutual_information(x, y, z)",
            float(ncfast.conditional_mutual_information(x, y, z)),
            None,
        ),
        (
            "Kornblith et al. 2019",
            "cka(a, b, debiased=False)",
            float(ncfast.cka(wide, wide[:, :32], debiased=False)),
            None,
        ),
        ("Song et al. 2012", "cka(a, b)", float(ncfast.cka(wide, wide[:, :32])), None),
    ]
    rows = [
        [paper, f"`{call}`", number(value), "" if prints is None else number(prints)]
        for paper, call, value, prints in calls
    ]
    return text.table(["paper or package", "call", "value", "package prints"], rows, 2)


def situations() -> dict[str, tuple[Tensor, Tensor]]:
    """Features and labels that tell the forms of NC1 apart."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    labels, means, noise = torch.arange(COUNT) % CLASSES, normal(CLASSES, DIM), normal(COUNT, DIM)
    feats = means[labels] + 0.3 * noise
    one_row, coinciding, flat, loud = feats.clone(), means.clone(), means.clone(), noise.clone()
    one_row[0] *= 20
    coinciding[1] = coinciding[0] + 1e-3 * normal(DIM)
    flat[:, 2:] *= 0.05
    loud[:, 0] *= 20
    rare = torch.where(labels >= 5, labels, 5 + labels)
    rare[:50] = torch.arange(50) % 5
    apart = means.clone()
    apart[:5] *= 4
    return {
        "plain": (feats, labels),
        "ten times larger": (10 * feats, labels),
        "moved by 5": (feats + 5, labels),
        "one row 20 times larger": (one_row, labels),
        "two classes coincide": (coinciding[labels] + 0.3 * noise, labels),
        "means near a plane": (flat[labels] + 0.3 * noise, labels),
        "one loud column": (means[labels] + 0.3 * loud, labels),
        "rare classes far away": (apart[rare] + 0.3 * noise, rare),
        "64 rows": (feats[:64], labels[:64]),
    }


def nc1_table() -> str:
    """Every form of NC1 in every situation."""
    names = [name for name in CATALOGUE if name.startswith(("rnc1.", "nc1."))]
    cases = situations()
    values = {
        case: ncfast.collapse_metrics(*data, metrics=names, num_classes=CLASSES)
        for case, data in cases.items()
    }
    rows = [
        [f"`{name}`", *(f"{float(values[case][name]):.3g}" for case in cases)] for name in names
    ]
    return text.table(["id", *cases], rows)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "code": ("which-metric.md", code_table),
    "papers": ("which-metric.md", paper_table),
    "information": ("which-metric.md", information_table),
    "nc1": ("which-nc1.md", nc1_table),
}


def main() -> None:
    for name, (page, table) in TABLES.items():
        text.write_between(DOCS / page, name, table())


if __name__ == "__main__":
    main()
