"""Writes what scipy and statsmodels come to, for the test beside this file.

    python3 -m venv .venv && .venv/bin/pip install -r sdk/statistics/tests/requirements.txt
    .venv/bin/python sdk/statistics/tests/reference.py

Each line of `reference.json` is a function of the crate, its arguments and its results; `null` is
infinity. Where neither package has a method, it is computed here from its definition: by quadrature,
by solving for the bounds of an interval, from samples in place of sums.
"""

import json
from math import exp, inf, isinf, log, sqrt
from pathlib import Path

import numpy as np
from scipy import optimize, special, stats
from scipy.integrate import quad
from statsmodels.regression.linear_model import OLS
from statsmodels.stats import meta_analysis, multitest, power, proportion, weightstats

LINES = []
RANDOM = np.random.default_rng(7)


def line(function, given, expected):
    def plain(value):
        if isinstance(value, (list, tuple, np.ndarray)):
            return [plain(item) for item in value]
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and isinf(value) else value

    expected = expected if isinstance(expected, (list, tuple, np.ndarray)) else [expected]
    LINES.append({"function": function, "given": plain(given), "expected": plain(expected)})


def sums(values):
    values = np.asarray(values, float)
    return [len(values), values.sum(), (values**2).sum()]


def root(function, low, high):
    return optimize.brentq(function, low, high, xtol=1e-15, rtol=1e-14, maxiter=500)


def distributions():
    for x in (-30.0, -8.0, -1.96, -0.1, 0.0, 0.5, 3.0):
        line("normal_cdf", [x], stats.norm.cdf(x))
    for p in (1e-100, 1e-9, 0.001, 0.025, 0.3, 0.5, 0.8, 0.999999):
        line("normal_quantile", [p], stats.norm.ppf(p))
    for t, degrees in [(0.1, 1), (2.0, 3.7), (2.262, 9), (-5.0, 30), (1.96, 1e6), (12.0, 250.5)]:
        line("student_two_sided", [t, degrees], 2 * stats.t.sf(abs(t), degrees))
    for alpha, degrees in [(0.05, 1), (0.05, 9), (0.001, 3.5), (0.01, 1e5), (1e-6, 12)]:
        line("student_critical", [alpha, degrees], stats.t.isf(alpha / 2, degrees))
    for x, degrees in [(0.1, 1), (3.84, 1), (11.07, 5), (250.0, 200), (90.0, 6), (1e3, 1100)]:
        line("chi_squared_upper", [x, degrees], stats.chi2.sf(x, degrees))
    for a, b, x in [
        (0.5, 0.5, 0.1), (1, 1, 0.3), (2, 30, 0.2), (300, 700, 0.29), (1e4, 2e6, 0.005),
        (5e5, 5e5, 0.4995), (1e6, 3, 0.999998), (1, 1e6, 3e-6), (5e7, 5e7, 0.5), (1e6, 1e8, 0.0099),
    ]:  # fmt: skip
        line("beta_cdf", [a, b, x], special.betainc(a, b, x))
    for a, b, p in [(0.5, 0.5, 0.1), (2, 30, 0.975), (300, 700, 0.025), (1, 1e6, 0.5), (5e5, 6e5, 0.01)]:
        line("beta_quantile", [a, b, p], special.betaincinv(a, b, p))


def fixed():
    for size, other, shift, spread in [(12, 15, 0.4, 1.0), (50, 400, 0.1, 3.0), (3000, 150, 0.0, 0.2)]:
        before, after = RANDOM.normal(1.0, 1.0, size), RANDOM.normal(1.0 + shift, spread, other)
        for alpha in (0.05, 0.01):
            compared = weightstats.CompareMeans.from_data(after, before)
            interval = compared.tconfint_diff(alpha=alpha, usevar="unequal")
            p_value = stats.ttest_ind(after, before, equal_var=False).pvalue
            expected = [after.mean() - before.mean(), *interval, p_value]
            line("fixed::means", [*sums(before), *sums(after), alpha], expected)
    for hits, trials, hits_after, trials_after in [
        (48, 80, 56, 70), (0, 1000, 5, 1000), (10, 100_000, 4, 5_000), (999, 1000, 1000, 1000),
        (5000, 100_000, 5300, 100_000),
    ]:  # fmt: skip
        for alpha in (0.05, 0.01):
            effect = hits_after / trials_after - hits / trials
            reach = stats.norm.isf(alpha / 2)

            # By solving for the most likely rates: for differences other than 0, statsmodels 0.15 has
            # others when there are not as many trials, and other bounds than Newcombe (1998).
            def score(difference):
                def slope(rate):
                    after = rate + difference
                    return (
                        hits / rate - (trials - hits) / (1 - rate)
                        + hits_after / after - (trials_after - hits_after) / (1 - after)
                    )  # fmt: skip

                low, high = max(0, -difference), min(1, 1 - difference)
                low, high = low + 1e-15, high - 1e-15
                rate = root(slope, low, high) if slope(low) > 0 > slope(high) else low
                rate = high if slope(high) > 0 else rate
                after = rate + difference
                variance = rate * (1 - rate) / trials + after * (1 - after) / trials_after
                return (effect - difference) / sqrt(max(variance, 1e-300))

            spread = sqrt(1 / trials + 1 / trials_after)
            low, high = max(effect - 2 * spread, -1 + 1e-9), min(effect + 2 * spread, 1 - 1e-9)
            interval = [
                root(lambda difference: score(difference) - reach, low, effect),
                root(lambda difference: score(difference) + reach, effect, high),
            ]
            test = proportion.test_proportions_2indep(
                hits_after, trials_after, hits, trials, compare="diff", method="score",
                correction=False,
            )  # fmt: skip
            given = [hits, trials, hits_after, trials_after, alpha]
            line("fixed::proportions", given, [effect, *interval, test.pvalue])
    for hits, trials, alpha in [(0, 20, 0.05), (20, 20, 0.05), (3, 1000, 0.01), (81, 263, 0.05)]:
        interval = proportion.proportion_confint(hits, trials, alpha, method="wilson")
        line("fixed::proportion", [hits, trials, alpha], interval)
    for units, shares in [([4_900, 5_100], [1, 1]), ([601, 310, 89], [0.6, 0.3, 0.1])]:
        expected = np.sum(units) * np.array(shares) / np.sum(shares)
        line("fixed::sample_ratio", [units, shares], stats.chisquare(units, expected).pvalue)


def mixtures():
    """The normal mixture by quadrature over effects, and its interval by solving for it."""
    for alpha, effect in [(0.05, 0.1), (0.01, 0.02)]:
        l = 2 * log(1 / alpha)
        c = l + log(1 + l)
        # Where the interval is narrowest, as the docstring of `mixture_variance` has it.
        error = effect / (sqrt((c + 1) / c * (l + log(c + 1))) + stats.norm.ppf(0.8))
        spread = sqrt(c) * error

        def odds(difference, variance):
            def ratio(truth):
                likelihood = (2 * difference * truth - truth**2) / (2 * variance)
                return exp(likelihood) * stats.norm.pdf(truth, 0, spread)

            # Its peak and width, so that the quadrature finds it.
            width = sqrt(1 / (1 / variance + 1 / spread**2))
            peak = difference * width**2 / variance
            bounds = (peak - 12 * width, peak + 12 * width)
            return quad(ratio, *bounds, epsabs=0, epsrel=1e-13, limit=500, points=[peak])[0]

        for z, part in [(0.5, 1.0), (2.5, 0.3), (3.4, 2.0), (4.0, 30.0), (-3.1, 1.0)]:
            variance = error**2 * part
            difference = z * sqrt(variance)
            radius = root(
                lambda off: log(odds(off, variance)) - log(1 / alpha), 0, 8 * sqrt(variance)
            )
            p_value = min(1, 1 / odds(difference, variance))
            given = [difference, variance, alpha, effect]
            line("sequential::difference", given, [difference - radius, difference + radius, p_value])


def counts():
    def log_odds(hits, trials, rate):
        """Of the beta-binomial beside the binomial: their coefficients cancel out."""
        mixture = stats.betabinom.logpmf(hits, trials, 0.5, 0.5)
        return mixture - stats.binom.logpmf(hits, trials, rate)

    for hits, trials, alpha in [
        (0, 20, 0.05), (20, 20, 0.05), (3, 1000, 0.01), (81, 263, 0.05), (500_000, 1_000_000, 0.05),
    ]:  # fmt: skip
        limit, best = log(1 / alpha), hits / trials
        excess = lambda rate: log_odds(hits, trials, rate) - limit
        lower = 0.0 if hits == 0 else root(excess, best * 1e-6, best)
        upper = 1.0 if hits == trials else root(excess, best, 1 - (1 - best) * 1e-6)
        line("sequential::proportion", [hits, trials, alpha], [lower, upper])

    def difference_log_odds(before, after, difference):
        def worse(rate):
            return log_odds(*before, rate) + log_odds(*after, rate + difference)

        low, high = max(0, -difference), min(1, 1 - difference)
        found = optimize.minimize_scalar(
            worse, bounds=(low, high), method="bounded", options={"xatol": 1e-14, "maxiter": 1000}
        )
        ends = [worse(low), worse(high)]
        return min([found.fun, *(end for end in ends if not np.isnan(end))])

    for before, after, alpha in [
        ((48, 80), (56, 70), 0.05), ((20, 2000), (60, 2000), 0.05), ((300, 40_000), (22, 2_000), 0.01),
        ((0, 9000), (2, 9000), 0.05), ((0, 100), (0, 300), 0.05),
    ]:  # fmt: skip
        observed = after[0] / after[1] - before[0] / before[1]
        excess = lambda difference: difference_log_odds(before, after, difference) - log(1 / alpha)
        interval = [root(excess, -0.9, observed), root(excess, observed, 0.9)]
        p_value = min(1, exp(-difference_log_odds(before, after, 0.0)))
        line("sequential::proportions_exact", [*before, *after, alpha], [observed, *interval, p_value])

    for stages, alpha in [
        ([(12, 30, 0.5)], 0.05), ([(0, 9, 0.5)], 0.05), ([(5, 0, 0.2)], 0.05),
        ([(200, 20, 0.05), (150, 40, 0.2), (90, 110, 0.5)], 0.01),
    ]:  # fmt: skip
        before, after = (sum(stage[index] for stage in stages) for index in (0, 1))

        def odds(ln_ratio):
            total = 0.0
            for baseline, candidate, share in stages:
                part = special.expit(ln_ratio + special.logit(share))
                total += log_odds(candidate, baseline + candidate, part)
            return total

        best = optimize.minimize_scalar(odds, bounds=(-30, 30), method="bounded", options={"xatol": 1e-12}).x
        excess = lambda ln_ratio: odds(ln_ratio) - log(1 / alpha)
        lower = 0.0 if after == 0 else exp(root(excess, -30, min(best, 20)))
        upper = inf if before == 0 else exp(root(excess, max(best, -20), 30))
        effect = 0.0 if after == 0 else inf if before == 0 else exp(best)
        line("sequential::events", [stages, alpha], [effect, lower, upper, min(1, exp(-odds(0)))])

    for units, shares in [
        ([4_900, 5_100], [0.5, 0.5]), ([480, 300, 220], [0.6, 0.3, 0.1]), ([0, 30], [0.5, 0.5]),
        ([50_500, 49_000], [0.5, 0.5]),
    ]:  # fmt: skip
        shares = np.array(shares)
        odds = [
            exp(stats.dirichlet_multinomial.logpmf(units, k * shares, sum(units))
                - stats.multinomial.logpmf(units, sum(units), shares))
            for k in (10, 1_000, 100_000)
        ]  # fmt: skip
        line("sequential::sample_ratio", [units, shares], min(1, 1 / np.mean(odds)))


def quantiles():
    """By trying every bound."""
    bounds = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0, 2.0])
    for size, q, alpha in [(200, 0.5, 0.05), (5_000, 0.95, 0.05), (40_000, 0.99, 0.01)]:
        values = RANDOM.lognormal(-2, 0.7, size)
        below = np.searchsorted(np.sort(values), bounds, side="right")
        given = [bounds, np.diff([0, *below, size]), q, alpha]

        def interval(under, over):
            return [max(bounds[under], default=-inf), min(bounds[over], default=inf)]

        exact = interval(
            stats.binom.cdf(below, size, q) <= alpha / 2,
            stats.binom.sf(below - 1, size, q) <= alpha / 2,
        )
        line("fixed::quantile", given, exact)
        odds = stats.betabinom.logpmf(below, size, 0.5, 0.5) - stats.binom.logpmf(below, size, q)
        sure = odds >= log(1 / alpha)
        line("sequential::quantile", given, interval(sure & (below < q * size), sure & (below > q * size)))


def designs():
    for effect, alpha, aim, share in [(0.5, 0.05, 0.8, 0.5), (0.1, 0.01, 0.9, 0.5), (0.2, 0.05, 0.8, 0.2)]:
        ratio = share / (1 - share)
        baseline = power.tt_ind_solve_power(effect, alpha=alpha, power=aim, ratio=ratio)
        line("Design::means", [2.0, 2.0 * effect, alpha, aim, share], baseline * (1 + ratio))
    for before, after, alpha, aim, share in [(0.1, 0.12, 0.05, 0.8, 0.5), (0.5, 0.4, 0.01, 0.9, 0.5), (0.02, 0.03, 0.05, 0.8, 0.1)]:
        ratio = share / (1 - share)
        both = share * after + (1 - share) * before
        same = sqrt(both * (1 - both) * (1 + 1 / ratio))
        apart = sqrt(before * (1 - before) + after * (1 - after) / ratio)
        baseline = power.normal_sample_size_one_tail(
            abs(after - before), aim, alpha / 2, std_null=same, std_alternative=apart
        )
        line("Design::proportions", [before, after, alpha, aim, share], baseline * (1 + ratio))


def clusters():
    """Ratios as errors robust to clusters have them, from each request in place of sums."""
    for units in (40, 900):
        requests = RANDOM.geometric(0.3, units)
        unit = np.repeat(np.arange(units), requests)
        errors = RANDOM.random(len(unit)) < np.repeat(RANDOM.beta(1, 9, units), requests)
        fitted = OLS(errors.astype(float), np.ones(len(unit))).fit(
            cov_type="cluster", cov_kwds={"groups": unit, "use_correction": True}
        )
        y = np.bincount(unit, errors)
        given = [units, y.sum(), requests.sum(), (y**2).sum(), (requests**2).sum(), (y * requests).sum()]
        line("Ratio::estimate", given, [fitted.params[0], fitted.bse[0] ** 2])


def several():
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5, 0.9], [0.02, 0.02, 1.0]):
        line("several::holm", [p_values], multitest.multipletests(p_values, method="holm")[1])
    for effects, variances in [
        ([0.1, 0.12, 0.3, 0.08], [0.002, 0.003, 0.004, 0.001]), ([1.0, 1.01, 0.99], [0.1, 0.2, 0.1]),
    ]:  # fmt: skip
        found = meta_analysis.combine_effects(np.array(effects), np.array(variances))
        expected = [found.mean_effect_fe, found.var_eff_w_fe, found.q]
        expected += [stats.chi2.sf(found.q, len(effects) - 1), max(0, found.i2)]
        line("several::stability", [effects, variances], expected)


def bandits():
    for arms in (
        [("beta", 11, 91), ("beta", 16, 86)], [("beta", 1, 1), ("beta", 1, 1), ("beta", 1, 1)],
        [("beta", 1, 5000), ("beta", 3, 5000), ("beta", 2, 400)], [("beta", 1, 1), ("beta", 9001, 1001)],
        [("normal", 0.0, 1.0), ("normal", 0.5, 0.1), ("normal", 0.6, 2.0)],
        [("beta", 50_001, 950_001), ("beta", 50_301, 949_701), ("beta", 501, 9_501)],
    ):  # fmt: skip
        known = [stats.beta(a, b) if kind == "beta" else stats.norm(a, b) for kind, a, b in arms]
        best = []
        for index, arm in enumerate(known):
            others = known[:index] + known[index + 1 :]
            points = np.unique(np.concatenate([each.ppf(np.linspace(1e-13, 1 - 1e-13, 400)) for each in known]))
            pieces = [
                quad(lambda x: arm.pdf(x) * np.prod([other.cdf(x) for other in others]), low, high, epsabs=1e-13)[0]
                for low, high in zip(points, points[1:])
            ]
            best.append(sum(pieces))
        given = [[int(kind == "beta"), a, b] for kind, a, b in arms]
        line("probability_best", [given], np.array(best) / sum(best))


def logged():
    propensity = RANDOM.uniform(0.05, 0.9, 500)
    target = RANDOM.uniform(0, 1, 500)
    reward = RANDOM.normal(1, 2, 500)
    weight = target / propensity
    value = (weight * reward).sum() / weight.sum()
    residuals = weight * (reward - value)
    expected = [
        (weight * reward).mean(), (weight * reward).var(ddof=1) / 500,
        value, 500 / 499 * (residuals**2).sum() / weight.sum() ** 2,
        weight.sum() ** 2 / (weight**2).sum(),
    ]  # fmt: skip
    line("OffPolicy", [propensity, target, reward], expected)


def scores():
    positives, negatives = [1, 4, 9, 16, 30], [40, 22, 11, 6, 1]
    high, low = np.repeat(range(5), positives), np.repeat(range(5), negatives)
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    area = stats.mannwhitneyu(high, low).statistic / (len(high) * len(low))
    variance = wins.mean(1).var(ddof=1) / len(high) + wins.mean(0).var(ddof=1) / len(low)
    line("scores::roc_auc", [positives, negatives], [area, variance])
    errors = RANDOM.normal(0, 3, 200)
    squares = errors**2
    expected = [sqrt(squares.mean()), squares.var(ddof=1) / 200 / (4 * squares.mean())]
    line("scores::root_mean_square", sums(squares), expected)


for part in (distributions, fixed, mixtures, counts, quantiles, designs, clusters, several, bandits, logged, scores):
    part()
text = "".join(json.dumps(entry) + "\n" for entry in LINES)
(Path(__file__).parent / "reference.json").write_text(text)
