"""What a record of an evaluation says in words: the table of results, the warnings, the sentence on the tails."""

from __future__ import annotations

__all__ = [
    "bounds_rows",
    "flags",
    "headline",
    "limit_sentence",
    "rows",
    "spent",
    "subset_sentence",
    "table",
    "tail_sentence",
    "target_sentence",
]

import math
from collections.abc import Mapping
from typing import Any

# of bits per dimension in float32: a model that is uniform is not flagged
ROUNDING = 1e-5


def headline(record: dict[str, Any]) -> str:
    """Returns the result in two lines: the mean with both errors and bits per dimension, and where they come from."""
    data, log_p, bits = record["data"], record["log_evidence"], record["bits_per_dim"]
    quantity = "relaxed score (not a log-probability of the data)" if record["relaxed"] else "log p(x)"
    is_exact = record["estimator"] == "exact"
    monte_carlo = "" if is_exact else f"Monte Carlo {log_p['monte_carlo_error']:.3f}, "
    subset = f"subset {log_p['subset_error']:.3f}, " if record.get("subset") else ""
    parts = f"{monte_carlo}{subset}test set {log_p['test_set_error']:.3f}"
    code = f", {bits['mean']:.4f} ± {bits['error']:.4f} bits/dim" if bits else ""
    source = f"{data['name'] or 'data'}, {data['split']}, {data['num_data']:,} data; {record['estimator']}"
    samples = "" if is_exact else f", {spent(record)}, seed {record['seed']}"
    return f"{quantity} = {log_p['mean']:.3f} ± {log_p['error']:.3f} nats ({parts}){code}\n({source}{samples})"


def rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the table of results: names, and values with their units."""
    data, log_p, bits, k = record["data"], record["log_evidence"], record["bits_per_dim"], record["pareto_k"]
    name, quantity = data["name"] or "data", "relaxed score" if record["relaxed"] else "log p(x)"
    is_exact = record["estimator"] == "exact"
    table = [("data", f"{name}, {data['split']}, {data['num_data']:,} data, binarization {data['binarization']}")]
    if subset := record.get("subset"):
        table.append(("subset", subset_sentence(record)))
    if is_exact:
        table.append(("estimator", "exact: the model's own log p(x), in closed form"))
    else:
        table.append(("estimator", f"{record['estimator']}, proposal {record['proposal']}"))
        if record["estimator"] == "auto":
            table.append(("  proposals", ", ".join(f"{name} {count:,}" for name, count in record["methods"].items())))
            table.append(("  target", target_sentence(record)))
        table.append(("samples", f"{spent(record)}, seed {record['seed']}"))
        more = f", and {subset['control_passes']} for each of all data" if subset else ""
        table.append(("cost", f"{record['passes']['mean']:,.0f} passes per datum (forward 1, backward 2){more}"))
    table.append((quantity, f"{log_p['mean']:.3f} nats per datum"))
    table.append(("  total error", f"{log_p['error']:.3f} nats (one standard error)"))
    if not is_exact:
        table.append(("  Monte Carlo", f"{log_p['monte_carlo_error']:.3f} nats, which more samples would shrink"))
    if subset:
        table.append(("  subset", f"{log_p['subset_error']:.3f} nats, which a larger subset would shrink"))
    table.append(("  test set", f"{log_p['test_set_error']:.3f} nats, which more data would shrink"))
    table.append(("sum over data", f"{log_p['total']:.1f} nats"))
    if bits:
        density = " (if p is a density, it depends on the data's unit)" if data["kind"] == "real" else ""
        table.append(("bits per dimension", f"{bits['mean']:.4f} ± {bits['error']:.4f} bits/dim{density}"))
    if record["elbo"] is not None:
        table.append(("ELBO", f"{record['elbo']:.3f} nats"))
    if record["rate"] is not None:
        table += [
            ("  rate", f"{record['rate']:.3f} nats"),
            ("  distortion", f"{record['distortion']:.3f} nats"),
        ]
    if record["active_units"] is not None:
        table.append(("active units", f"{record['active_units']} of {record['num_latents']} latents"))
    if not is_exact:
        jackknife, ess = record["jackknife"], record["ess"]
        bias = f"about {jackknife['bias']:.3f} nats" if jackknife else "not estimable: a few draws decide"
        table.append(("finite-sample bias", f"{bias} (jackknife; in none of the errors)"))
        table.append(("limit in S", limit_sentence(record)))
        table.append(("ESS", f"median {ess['median']:.1f}, smallest {ess['minimum']:.1f} {_kind(record)}"))
        table.append(("k-hat", k["sentence"]))
    table += [("note", flag) for flag in record["flags"] if flag != k["sentence"]]
    table.append(("time", f"{record['provenance']['seconds']:.1f} s on {record['provenance']['device']}"))
    return table


def target_sentence(record: dict[str, Any]) -> str:
    """Says which share of the data met the error that was aimed at."""
    missed = record["share_above_target"]
    return f"standard error {record['target_error']:g} nats per datum, missed by {missed:.1%} of the data"


def table(rows: list[tuple[str, str]]) -> str:
    """Returns names and values as lines, the values below each other."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def subset_sentence(record: dict[str, Any]) -> str:
    """Says which data stand for all, and how well the mean of all is known by them."""
    subset, control = record["subset"], ""
    if (left := subset["variance_left"]) is not None:
        control = f"; the ELBO of all data as control variate leaves {left:.1%} of their variance"
    drawn = f"{subset['num_data']:,} of these data, drawn at random (seed {record['seed']})"
    return f"{drawn}, stand for all, whose mean they give to ± {subset['error']:.3f} nats{control}"


def limit_sentence(record: dict[str, Any]) -> str:
    """Says what infinitely many samples would give, or why that is not known."""
    limit = record["extrapolation"]
    if limit["mean"] is None:
        return str(limit["sentence"])
    gain = f"{limit['gain']:.2g} ± {limit['gain_error']:.1g} nats more than with all draws"
    return f"{limit['mean']:.3f} ± {limit['error']:.3f} nats (Monte Carlo), {gain}; {_lowered(limit['sentence'])}"


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def bounds_rows(record: dict[str, Any]) -> list[str]:
    """Returns the table of a sandwich of bounds, line by line."""
    label = "relaxed score, not a log-probability of the data" if record.get("relaxed") else "log p(x)"
    about = f"{record['num_data']:,} simulated data, {record['num_chains']} chains each way, from {record['proposal']}"
    lines = [
        f"{label}, nats on average over {about}, seed {record['seed']}",
        "steps   lower bound   upper bound   width ± its standard error   acceptance   passes per datum",
    ]
    lines += [
        f"{row['num_temperatures']:5}   {row['lower']:11.3f}   {row['upper']:11.3f}   {row['gap']:8.4f} ± "
        f"{row['gap_error']:.4f} nats{'':9}{row['acceptance']:10.0%}   {row['num_passes']:16,.0f}"
        for row in record["rows"]
    ]
    return lines


def spent(record: Mapping[str, Any]) -> str:
    """Says how many samples, or chains, a datum got."""
    kind = _kind(record)
    mean, most = record["samples"]["mean"], record["samples"]["maximum"]
    if mean == most:
        return f"{most:,.0f} {kind} per datum"
    return f"{mean:,.0f} {kind} per datum on average, {most:,.0f} at most"


def _kind(record: Mapping[str, Any]) -> str:
    return "chains" if record["estimator"] == "annealed" else "samples"


def flags(record: dict[str, Any]) -> list[str]:
    """Returns one sentence for each thing that a reader of the numbers must know."""
    sentences, bits, levels = [], record["bits_per_dim"], record["data"].get("levels")
    if record["relaxed"]:
        sentences.append(f"Not a log-probability of the data: {record['relaxed']}.")
    if record["num_nonfinite"]:
        sentences.append(f"{record['num_nonfinite']} data have an estimate that is not finite; none was dropped.")
    if (subset := record.get("subset")) and subset["num_nonfinite_controls"]:
        number = subset["num_nonfinite_controls"]
        sentences.append(f"{number} data have an ELBO that is not finite, so that no subset can stand for all.")
    if bits and levels and bits["mean"] > math.log2(levels) + ROUNDING:
        uniform = f"a uniform code would need only {math.log2(levels):.3g}"
        sentences.append(f"{bits['mean']:.2f} bits/dim on data of {levels} levels: {uniform}.")
    if (record["pareto_k"]["share_above_07"] or 0) > 0:
        sentences.append(record["pareto_k"]["sentence"])
    return sentences


def tail_sentence(above_05: float, above_07: float, constant: bool) -> str:
    """Says what the share of data with heavy-tailed weights means."""
    if constant:
        return (
            "All weights are constant up to rounding: the proposal is the exact posterior, so the estimates are exact."
        )
    if above_07 > 0:
        return (
            f"{above_07:.1%} of the data have k-hat of 0.7 or more: their weights are so heavy-tailed that their "
            "estimates are probably too low, by more than the Monte Carlo error says; more samples help little, a "
            "better proposal does."
        )
    if above_05 > 0:
        return (
            f"{above_05:.1%} of the data have k-hat between 0.5 and 0.7: their estimates are usable, but their error "
            "bars are unreliable."
        )
    return "All data have k-hat < 0.5: the weights have finite variance, and estimates and error bars can be relied on."
