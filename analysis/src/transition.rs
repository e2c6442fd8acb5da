//! Transitions on one trial's curves: saturation, generalisation, delay and verdict.
//!
//! Definitions, for the accuracy on what is trained (A_in) and on what is held out (A_out), with chance level c:
//! - `saturation`: first evaluation with A_in ≥ 0.99 that holds for 3 consecutive evaluations;
//! - `first`: first evaluation with A_out ≥ θ (Manir et al., arXiv 2603.25009); `stable`: first from which it holds in
//!   every later evaluation (both reported, as Wang, arXiv 2607.20512, does); `sustained`: first that holds for 3
//!   consecutive evaluations (Xu, arXiv 2602.16967);
//! - `half`, `onset`: first A_out ≥ c + 0.5 (1 − c), and ≥ c + 0.1 (1 − c);
//! - delay = first − saturation; delay ratio = first / saturation (a saturation at step 0 counts as step 1);
//! - gap: A_in − A_out at saturation; early stop: the first maximum of A_in; its cost: A_out at the end − A_out there;
//! - sharpness: from A_out ≥ 0.1 to A_out ≥ 0.9, in steps and as a ratio;
//! - phase of the linear rule, where it is looked for: evaluations with A_in at its level at which at least 0.9 of the
//!   answers out of domain follow that rule, or, where that share was not measured, A_out < 0.05.
//!
//! A transition happened between the evaluation before and the one named: the resolution is kept beside it. Missing
//! points are missing, not zero; NaN is below every level.

use plateau_common::results::Series;
use serde::Serialize;

/// The levels at which transitions are read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Levels {
    /// A_in at saturation.
    pub train: f64,
    /// θ: A_out at generalisation (0.99 for arithmetic, 0.80 for structural generalisation).
    pub test: f64,
    /// Consecutive evaluations for `saturation` and `sustained`.
    pub persistence: usize,
    /// Accuracy of guessing.
    pub chance: f64,
}

/// Share of answers by the linear rule from which on a model is said to follow it.
pub const LINEAR_SHARE: f64 = 0.9;
/// A_out below which a saturated model is said to follow the linear rule where the share of its answers is not known: the
/// held-out set is made so that this rule is always wrong on it, while guessing is not.
pub const LINEAR_ACCURACY: f64 = 0.05;

/// The curves of one trial.
#[derive(Clone, Copy, Debug, Default)]
pub struct Curves<'c> {
    /// A_in.
    pub train: Option<&'c Series>,
    /// A_out.
    pub test: Option<&'c Series>,
    /// Whether and how a phase of the linear rule is looked for.
    pub linear: LinearRule<'c>,
}

/// How a phase of the linear rule is found.
#[derive(Clone, Copy, Debug, Default)]
pub enum LinearRule<'c> {
    /// Not at all.
    #[default]
    NotSought,
    /// By the share of answers out of domain that follow it.
    Share(&'c Series),
    /// By A_out, as that share was not measured.
    Accuracy,
}

/// A phase of the linear rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Its first evaluation.
    pub from: u64,
    /// Its last one; of a phase that begins before generalisation, the last before that.
    pub to: u64,
    /// Whether that is the last evaluation there is.
    pub lasts: bool,
}

impl Default for Levels {
    fn default() -> Self {
        Levels { train: 0.99, test: 0.99, persistence: 3, chance: 0.0 }
    }
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Generalised late: gap at saturation ≥ 0.3 and delay ratio ≥ 2.
    Grokked,
    /// Generalised with a delay ratio below 2.
    WithoutDelay,
    /// Generalised with a ratio of at least 2 but a gap at saturation below 0.3.
    Gradually,
    /// Generalised although training never saturated, so that there is no delay.
    Unsaturated,
    /// Generalised, but not any more at the end.
    Unstable,
    /// Training saturated, generalisation never came.
    MemorisedOnly,
    /// Generalisation never came, and there was a phase of the linear rule.
    LinearRule,
    /// Training saturated, and neither generalisation nor the linear rule, which was looked for, came.
    NeitherRule,
    /// Neither saturated nor generalised.
    NotFitted,
    /// The curves are not there.
    NoCurve,
}

impl Verdict {
    /// All verdicts, best news first.
    pub const ALL: [Verdict; 10] = [
        Verdict::Grokked,
        Verdict::WithoutDelay,
        Verdict::Gradually,
        Verdict::Unsaturated,
        Verdict::Unstable,
        Verdict::MemorisedOnly,
        Verdict::LinearRule,
        Verdict::NeitherRule,
        Verdict::NotFitted,
        Verdict::NoCurve,
    ];

    /// The verdict in words.
    pub fn phrase(self) -> &'static str {
        match self {
            Verdict::Grokked => "grokked",
            Verdict::WithoutDelay => "generalised without delay",
            Verdict::Gradually => "generalised gradually",
            Verdict::Unsaturated => "generalised, training not saturated",
            Verdict::Unstable => "unstable",
            Verdict::MemorisedOnly => "memorised only",
            Verdict::LinearRule => "linear rule",
            Verdict::NeitherRule => "neither rule",
            Verdict::NotFitted => "not fitted",
            Verdict::NoCurve => "no curve",
        }
    }
}

/// The transitions of one trial; steps are `None` where they did not happen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Transition {
    /// First evaluation of saturated training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<u64>,
    /// First evaluation of generalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// First evaluation from which generalisation lasts to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<u64>,
    /// First evaluation of generalisation that holds for `persistence` evaluations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sustained: Option<u64>,
    /// Half-way above chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<u64>,
    /// A tenth of the way above chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onset: Option<u64>,
    /// `first − saturation` in steps; negative where generalisation came before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<i64>,
    /// `first / saturation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ratio: Option<f64>,
    /// Steps between `first` and the evaluation before it: the transition lies in this interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<u64>,
    /// A_in − A_out at saturation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// Where training stops that stops early: the first maximum of A_in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<u64>,
    /// A_out there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop_value: Option<f64>,
    /// A_out at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_value: Option<f64>,
    /// What stopping early would have cost in A_out: the one less the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_cost: Option<f64>,
    /// Steps from A_out ≥ 0.1 to A_out ≥ 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness_steps: Option<i64>,
    /// The same as a ratio of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness_ratio: Option<f64>,
    /// The phase of the linear rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear: Option<Phase>,
    /// What became of the trial.
    pub verdict: Verdict,
}

/// The first step at which the curve is at or above `level` in `persistence` consecutive evaluations.
pub fn first_at_least(curve: &Series, level: f64, persistence: usize) -> Option<u64> {
    first_run(curve, persistence, |value| value >= level)
}

/// The first step at which the curve is at or below `level` in `persistence` consecutive evaluations.
pub fn first_at_most(curve: &Series, level: f64, persistence: usize) -> Option<u64> {
    first_run(curve, persistence, |value| value <= level)
}

fn first_run(curve: &Series, persistence: usize, holds: impl Fn(f64) -> bool) -> Option<u64> {
    let start = curve
        .values
        .windows(persistence.max(1))
        .position(|window| window.iter().all(|value| holds(*value)))?;
    curve.steps.get(start).copied()
}

/// The first step from which the curve is at or above `level` in every later evaluation.
pub fn stable_from(curve: &Series, level: f64) -> Option<u64> {
    let tail = curve.values.iter().rev().take_while(|value| **value >= level).count();
    curve.steps.get(curve.values.len().checked_sub(tail)?).copied()
}

/// The value at the last evaluation up to `step`.
fn value_at(curve: &Series, step: u64) -> Option<f64> {
    let count = curve.steps.partition_point(|at| *at <= step);
    curve.values.get(count.checked_sub(1)?).copied()
}

/// Reads the transitions of one trial from its curves.
pub fn detect(curves: &Curves, levels: &Levels) -> Transition {
    let empty = Series::default();
    let (inner, outer) = (curves.train.unwrap_or(&empty), curves.test.unwrap_or(&empty));
    let above_chance = |share: f64| levels.chance + share * (1.0 - levels.chance);
    let saturation = first_at_least(inner, levels.train, levels.persistence);
    let first = first_at_least(outer, levels.test, 1);
    let delay_ratio =
        saturation.zip(first).map(|(saturation, first)| first as f64 / saturation.max(1) as f64);
    let gap = saturation
        .and_then(|step| Some(value_at(inner, step)? - value_at(outer, step)?))
        .filter(|gap| gap.is_finite());
    let between =
        |low: f64, high: f64| Some((first_at_least(outer, low, 1)?, first_at_least(outer, high, 1)?));
    let sharpness = between(0.1, 0.9);
    let final_value = outer.last().map(|(_, value)| value);
    let early_stop = early_stop(inner);
    let early_stop_value =
        early_stop.and_then(|stop| value_at(outer, stop)).filter(|value| value.is_finite());
    let cost = final_value.zip(early_stop_value).map(|(end, stop)| end - stop);
    let linear = linear_phase(inner, outer, curves.linear, first, levels);
    let verdict = if inner.values.is_empty() || outer.values.is_empty() {
        Verdict::NoCurve
    } else {
        match (saturation, first) {
            (_, None) if linear.is_some() => Verdict::LinearRule,
            (None, None) => Verdict::NotFitted,
            (Some(_), None) if matches!(curves.linear, LinearRule::NotSought) => Verdict::MemorisedOnly,
            (Some(_), None) => Verdict::NeitherRule,
            // Written so that a final NaN is unstable too.
            (_, Some(_)) if !final_value.is_some_and(|value| value >= levels.test) => Verdict::Unstable,
            (None, Some(_)) => Verdict::Unsaturated,
            (Some(_), Some(_)) if delay_ratio.is_some_and(|ratio| ratio < 2.0) => Verdict::WithoutDelay,
            (Some(_), Some(_)) if gap.is_some_and(|gap| gap >= 0.3) => Verdict::Grokked,
            (Some(_), Some(_)) => Verdict::Gradually,
        }
    };
    Transition {
        saturation,
        first,
        stable: stable_from(outer, levels.test),
        sustained: first_at_least(outer, levels.test, levels.persistence),
        half: first_at_least(outer, above_chance(0.5), 1),
        onset: first_at_least(outer, above_chance(0.1), 1),
        delay: saturation.zip(first).map(|(saturation, first)| first as i64 - saturation as i64),
        delay_ratio,
        resolution: first.map(|step| step - previous(outer, step).unwrap_or(step)),
        gap,
        early_stop,
        early_stop_value,
        final_value: final_value.filter(|value| value.is_finite()),
        early_stopping_cost: cost.filter(|cost| cost.is_finite()),
        sharpness_steps: sharpness.map(|(low, high)| high as i64 - low as i64),
        sharpness_ratio: sharpness.map(|(low, high)| high as f64 / low.max(1) as f64),
        linear,
        verdict,
    }
}

fn previous(curve: &Series, step: u64) -> Option<u64> {
    let place = curve.steps.partition_point(|at| *at < step);
    curve.steps.get(place.checked_sub(1)?).copied()
}

/// The first maximum of the curve.
fn early_stop(inner: &Series) -> Option<u64> {
    let best = inner.values.iter().copied().filter(|value| value.is_finite()).fold(f64::NAN, f64::max);
    first_at_least(inner, best, 1)
}

fn linear_phase(
    inner: &Series,
    outer: &Series,
    rule: LinearRule,
    first: Option<u64>,
    levels: &Levels,
) -> Option<Phase> {
    let (curve, follows): (&Series, fn(f64) -> bool) = match rule {
        LinearRule::NotSought => return None,
        LinearRule::Share(share) => (share, |share| share >= LINEAR_SHARE),
        LinearRule::Accuracy => (outer, |accuracy| accuracy < LINEAR_ACCURACY),
    };
    let saturated = |step: u64| value_at(inner, step).is_some_and(|value| value >= levels.train);
    let evaluations = || {
        let points = curve.steps.iter().copied().zip(curve.values.iter().copied());
        points.filter(|(step, value)| follows(*value) && saturated(*step)).map(|(step, _)| step)
    };
    let from = evaluations().next()?;
    let before = evaluations().rfind(|step| first.is_some_and(|first| *step < first));
    let to = before.or_else(|| evaluations().next_back())?;
    Some(Phase { from, to, lasts: curve.steps.last() == Some(&to) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u64, f64)]) -> Series {
        let (steps, values) = points.iter().copied().unzip();
        Series { steps, values }
    }

    fn both<'c>(train: &'c Series, test: &'c Series) -> Curves<'c> {
        Curves { train: Some(train), test: Some(test), linear: LinearRule::NotSought }
    }

    fn verdict(train: &Series, test: &Series) -> Verdict {
        detect(&both(train, test), &Levels::default()).verdict
    }

    fn saturating() -> Series {
        curve(&[
            (0, 0.01),
            (100, 0.995),
            (120, 0.97),
            (140, 0.99),
            (200, 1.0),
            (1000, 1.0),
            (5000, 1.0),
            (8000, 1.0),
        ])
    }

    #[test]
    fn every_quantity_of_a_run_that_grokked() {
        let test = curve(&[
            (0, 0.01),
            (100, 0.05),
            (140, 0.08),
            (1000, 0.12),
            (2000, 0.6),
            (5000, 0.995),
            (6000, 0.98),
            (7000, 0.99),
            (8000, 1.0),
        ]);
        let found = detect(&both(&saturating(), &test), &Levels::default());
        // 100 does not hold for three evaluations, 140 does.
        assert_eq!(found.saturation, Some(140));
        assert_eq!(found.first, Some(5000));
        assert_eq!(found.stable, Some(7000));
        assert_eq!(found.sustained, None, "0.995, 0.98, 0.99, 1.0 never holds for three");
        assert_eq!(found.half, Some(2000));
        assert_eq!(found.onset, Some(1000));
        assert_eq!(found.delay, Some(4860));
        assert!((found.delay_ratio.unwrap() - 5000.0 / 140.0).abs() < 1e-12);
        assert_eq!(found.resolution, Some(3000));
        assert!((found.gap.unwrap() - (0.99 - 0.08)).abs() < 1e-12);
        // The first maximum of training accuracy is at 200, where the last test value is 0.08.
        assert_eq!(
            (found.early_stop, found.early_stop_value, found.final_value),
            (Some(200), Some(0.08), Some(1.0))
        );
        assert!((found.early_stopping_cost.unwrap() - 0.92).abs() < 1e-12);
        assert_eq!(found.linear, None, "nobody looks for a linear rule in arithmetic");
        assert_eq!(found.sharpness_steps, Some(4000));
        assert_eq!(found.sharpness_ratio, Some(5.0));
        assert_eq!(found.verdict, Verdict::Grokked);
    }

    #[test]
    fn chance_moves_onset_and_half() {
        let test = curve(&[(0, 0.5), (10, 0.54), (20, 0.56), (30, 0.74), (40, 0.76)]);
        let levels = Levels { chance: 0.5, ..Levels::default() };
        let found = detect(&both(&saturating(), &test), &levels);
        assert_eq!((found.onset, found.half), (Some(20), Some(40)));
    }

    #[test]
    fn verdicts() {
        let train = saturating();
        let late = |end: f64| curve(&[(0, 0.0), (140, 0.1), (5000, 1.0), (8000, end)]);
        assert_eq!(verdict(&train, &late(1.0)), Verdict::Grokked);
        assert_eq!(verdict(&train, &late(0.5)), Verdict::Unstable);
        assert_eq!(verdict(&train, &late(f64::NAN)), Verdict::Unstable);
        assert_eq!(verdict(&train, &curve(&[(0, 0.0), (140, 0.1), (250, 1.0)])), Verdict::WithoutDelay);
        assert_eq!(verdict(&train, &curve(&[(0, 0.0), (140, 0.9), (5000, 1.0)])), Verdict::Gradually);
        assert_eq!(verdict(&train, &curve(&[(0, 0.0), (8000, 0.2)])), Verdict::MemorisedOnly);
        let low = curve(&[(0, 0.0), (8000, 0.2)]);
        assert_eq!(verdict(&low, &low), Verdict::NotFitted);
        assert_eq!(verdict(&low, &late(1.0)), Verdict::Unsaturated);
        assert_eq!(
            detect(&Curves { train: None, ..both(&low, &low) }, &Levels::default()).verdict,
            Verdict::NoCurve
        );
        assert_eq!(detect(&Curves::default(), &Levels::default()).verdict, Verdict::NoCurve);
    }

    #[test]
    fn nan_curves_and_single_points_do_not_panic() {
        let nan = curve(&[(0, f64::NAN), (10, f64::NAN), (20, f64::NAN)]);
        assert_eq!(verdict(&nan, &nan), Verdict::NotFitted);
        let one = curve(&[(0, 1.0)]);
        let found = detect(&both(&one, &one), &Levels { persistence: 1, ..Levels::default() });
        assert_eq!(found.delay_ratio, Some(0.0));
        assert_eq!(found.verdict, Verdict::WithoutDelay);
        let late = curve(&[(0, f64::NAN), (8000, 1.0)]);
        let found = detect(&both(&saturating(), &late), &Levels::default());
        assert_eq!((found.gap, found.early_stopping_cost), (None, None), "NaN is absent, not a number");
    }

    fn structural(test: &Series, share: Option<&Series>) -> Transition {
        let train =
            curve(&[(3000, 0.96), (6000, 1.0), (9000, 1.0), (12_000, 1.0), (15_000, 1.0), (18_000, 1.0)]);
        let linear = share.map_or(LinearRule::Accuracy, LinearRule::Share);
        let curves = Curves { train: Some(&train), test: Some(test), linear };
        detect(&curves, &Levels { test: 0.8, ..Levels::default() })
    }

    #[test]
    fn phases_of_the_linear_rule() {
        let late =
            curve(&[(3000, 0.01), (6000, 0.01), (9000, 0.04), (12_000, 0.6), (15_000, 0.9), (18_000, 0.02)]);
        // At 3000 training has not saturated; 18,000 comes after generalisation.
        let found = structural(&late, None);
        assert_eq!(found.linear, Some(Phase { from: 6000, to: 9000, lasts: false }));
        assert_eq!((found.first, found.verdict), (Some(15_000), Verdict::Unstable));
        // Where the share was measured, it decides.
        let share = curve(&[(3000, 0.95), (6000, 0.89), (9000, 0.9), (12_000, f64::NAN), (15_000, 0.1)]);
        assert_eq!(
            structural(&late, Some(&share)).linear,
            Some(Phase { from: 9000, to: 9000, lasts: false })
        );
        let none = curve(&[(6000, 0.5), (9000, 0.5)]);
        assert_eq!(structural(&late, Some(&none)).linear, None);

        let never = curve(&[(6000, 0.0), (12_000, 0.4), (18_000, 0.03)]);
        let found = structural(&never, None);
        assert_eq!(
            (found.linear, found.verdict),
            (Some(Phase { from: 6000, to: 18_000, lasts: true }), Verdict::LinearRule)
        );
        let guessing = curve(&[(6000, 0.4), (18_000, 0.5)]);
        assert_eq!(structural(&guessing, None).verdict, Verdict::NeitherRule);
        // Generalised first, linear after: the phase begins after generalisation.
        let fallen = curve(&[(6000, 0.9), (12_000, 0.0), (18_000, 0.9)]);
        assert_eq!(structural(&fallen, None).linear, Some(Phase { from: 12_000, to: 12_000, lasts: false }));
    }

    /// Means over ten seeds of six layers on question formation, from the logs that Murty et al. 2023 released.
    #[test]
    fn the_released_mean_curve_of_question_formation() {
        let steps = crate::fixture::QUESTION_STEPS;
        let series = |values: [f64; 12]| Series { steps: steps.to_vec(), values: values.to_vec() };
        let train = series([0.963, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let test = series(crate::fixture::QUESTION_MEANS);
        let curves = Curves { train: Some(&train), test: Some(&test), linear: LinearRule::Accuracy };
        let found = detect(&curves, &Levels { test: 0.8, ..Levels::default() });
        assert_eq!(found.saturation, Some(6000));
        assert_eq!(found.linear, Some(Phase { from: 6000, to: 6000, lasts: false }));
        assert_eq!((found.first, found.stable, found.sustained), (Some(21_000), Some(60_000), Some(60_000)));
        assert_eq!((found.delay, found.delay_ratio), (Some(15_000), Some(3.5)));
        assert!((found.gap.unwrap() - 0.957).abs() < 1e-12);
        assert_eq!((found.early_stop, found.early_stop_value), (Some(6000), Some(0.043)));
        assert!((found.early_stopping_cost.unwrap() - 0.886).abs() < 1e-12);
        assert_eq!(found.verdict, Verdict::Grokked);
    }
}
