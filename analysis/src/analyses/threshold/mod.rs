//! `threshold`: where a metric falls through a level along one parameter, per value of another, and the line through
//! those thresholds.
//!
//! Per value of `by`: mean over seeds at each value of `along`, isotonic fit, interpolation (see
//! `statistics::threshold`). The line (OLS) and the power law (OLS of logarithms) use the thresholds that are not
//! censored. Intervals come from resampling seeds within each cell and redoing all of it, line included; below five
//! seeds the interval of a threshold is t over the thresholds of single seeds, and that of a slope is the t interval of
//! the line.

mod tables;

use plateau_common::fields::{ConfigResult, Fields};
use serde::Serialize;
use serde_json::Value;

use super::population::{caveats, ended, final_value};
use super::survival::shared;
use super::{Analysis, AnalysisResult, Common};
use crate::cells::{Cell, Dataset, Group, describe, group, human, json, short_name};
use crate::number;
use crate::statistics::bootstrap::{FEWEST_RUNS, RESAMPLES, resample, set_interval};
use crate::statistics::line::{self, Line};
use crate::statistics::threshold::{Crossing, crossing};
use crate::statistics::{Estimate, Flag, isotonic, mean, t_quantile};

struct Threshold {
    name: String,
    confidence: f64,
    metric: String,
    along: String,
    by: Option<String>,
    level: f64,
    logarithmic: bool,
}

/// Options: `along` (a numeric parameter, required), `by` (a parameter), `metric` (default `test_accuracy`), `level`
/// (default 0.8), `log` (interpolate in the logarithm of `along`, default false).
pub fn read(fields: &mut Fields, common: Common) -> ConfigResult<Box<dyn Analysis>> {
    let along = common.known.parameter(fields, "along")?;
    let along = fields.require("along", along)?;
    let by = common.known.parameter(fields, "by")?;
    if by.as_deref() == Some(&along) {
        return Err(fields
            .error("by", "is the same parameter as `along`")
            .suggest("group by another parameter"));
    }
    Ok(Box::new(Threshold {
        name: common.name,
        confidence: common.confidence,
        metric: common.known.metric(fields, "metric")?.unwrap_or_else(|| "test_accuracy".to_owned()),
        along,
        by,
        level: fields.number("level", f64::MIN..=f64::MAX)?.unwrap_or(0.8),
        logarithmic: fields.boolean("log")?.unwrap_or(false),
    }))
}

/// The threshold at one value of `by`.
#[derive(Clone, Debug, Serialize)]
pub struct ThresholdPoint {
    /// The value of `by` (an empty string where there is none).
    pub by: Value,
    /// The same for people.
    #[serde(skip)]
    pub by_text: String,
    /// The same as a number; NaN where it is none.
    #[serde(serialize_with = "number::serialize")]
    pub by_number: f64,
    /// Where the fit crosses the level.
    pub crossing: Crossing,
    /// The threshold with its interval.
    pub threshold: Estimate,
    /// The thresholds of single seeds, in ascending seed.
    #[serde(serialize_with = "number::serialize_list")]
    pub each_seed: Vec<f64>,
    /// Values of `along`.
    #[serde(serialize_with = "number::serialize_list")]
    pub along: Vec<f64>,
    /// Mean of the metric at each.
    #[serde(serialize_with = "number::serialize_list")]
    pub means: Vec<f64>,
    /// Isotonic fit at each.
    #[serde(serialize_with = "number::serialize_list")]
    pub fit: Vec<f64>,
}

/// A line through thresholds.
#[derive(Clone, Debug, Serialize)]
pub struct LineEstimate {
    /// Slope with its interval (of the power law: the exponent).
    pub slope: Estimate,
    /// Intercept with its interval (of the power law: the coefficient).
    pub intercept: Estimate,
    /// The least-squares line with its standard errors (of the power law: in logarithms).
    pub least_squares: Line,
    /// Thresholds left out because they are censored or undefined.
    pub left_out: usize,
}

/// Thresholds that share all parameters but `along` and `by`.
#[derive(Clone, Debug, Serialize)]
pub struct ThresholdFacet {
    /// Its name; empty where nothing else varies.
    pub name: String,
    /// The parameters it shares.
    pub parameters: serde_json::Map<String, Value>,
    /// One threshold per value of `by`, ascending.
    pub points: Vec<ThresholdPoint>,
    /// threshold = intercept + slope · by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<LineEstimate>,
    /// threshold = coefficient · by^exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_law: Option<LineEstimate>,
}

/// Outcome of the `threshold` analysis.
#[derive(Clone, Debug, Serialize)]
pub struct ThresholdOutcome {
    /// The metric.
    pub metric: String,
    /// Parameter along which it falls.
    pub along: String,
    /// Parameter the thresholds are grouped by; empty for none.
    pub by: String,
    /// The level.
    pub level: f64,
    /// Whether interpolation is in the logarithm of `along`.
    pub logarithmic: bool,
    /// One entry per combination of the other parameters.
    pub facets: Vec<ThresholdFacet>,
}

/// The runs behind one threshold: for each value of `along`, (seed, metric) of every run with a finite value.
struct Curve {
    along: Vec<f64>,
    runs: Vec<Vec<(u64, f64)>>,
}

impl Threshold {
    fn curve(&self, cells: &[&Cell]) -> Curve {
        let mut points: Vec<(f64, Vec<(u64, f64)>)> = Vec::new();
        for cell in cells {
            let Some(along) = cell.parameter(&self.along).and_then(|value| value.as_number()) else {
                continue;
            };
            let runs = ended(&cell.trials)
                .into_iter()
                .map(|trial| (trial.seed, final_value(trial, &self.metric)))
                .filter(|(_, value)| value.is_finite());
            match points.iter_mut().find(|(at, _)| *at == along) {
                Some((_, all)) => all.extend(runs),
                None => points.push((along, runs.collect())),
            }
        }
        points.retain(|(_, runs)| !runs.is_empty());
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (along, runs) = points.into_iter().unzip();
        Curve { along, runs }
    }

    fn crossing(&self, along: &[f64], means: &[f64], weights: &[f64]) -> Crossing {
        crossing(along, means, weights, self.level, self.logarithmic)
    }

    fn point(&self, group: &Group, curve: &Curve) -> ThresholdPoint {
        let means: Vec<f64> = curve
            .runs
            .iter()
            .map(|runs| mean::mean(&runs.iter().map(|(_, value)| *value).collect::<Vec<f64>>()))
            .collect();
        let weights: Vec<f64> = curve.runs.iter().map(|runs| runs.len() as f64).collect();
        let found = self.crossing(&curve.along, &means, &weights);
        let mut seeds: Vec<u64> = curve.runs.iter().flatten().map(|(seed, _)| *seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let each_seed: Vec<f64> = seeds
            .iter()
            .map(|seed| {
                let own: Vec<f64> = curve
                    .runs
                    .iter()
                    .map(|runs| runs.iter().find(|(of, _)| of == seed).map_or(f64::NAN, |(_, value)| *value))
                    .collect();
                self.crossing(&curve.along, &own, &vec![1.0; own.len()]).value()
            })
            .collect();
        let runs = curve.runs.iter().map(Vec::len).sum();
        let mut threshold = Estimate::point(found.value(), self.confidence, "isotonic fit", runs);
        match found {
            Crossing::Undefined => threshold.flag(Flag::NoData),
            Crossing::Below(_) => threshold.flag(Flag::LeftCensored),
            Crossing::Above(_) => threshold.flag(Flag::RightCensored),
            Crossing::At(_) => {}
        }
        let by = group.values.first().and_then(Option::as_ref);
        ThresholdPoint {
            by: json(by),
            by_text: human(by),
            by_number: by.and_then(|by| by.as_number()).unwrap_or(f64::NAN),
            crossing: found,
            threshold,
            each_seed,
            fit: isotonic::non_increasing(&means, &weights),
            along: curve.along.clone(),
            means,
        }
    }

    fn facet(
        &self,
        name: String,
        parameters: serde_json::Map<String, Value>,
        groups: &[Group],
    ) -> ThresholdFacet {
        let curves: Vec<Curve> = groups.iter().map(|group| self.curve(&group.cells)).collect();
        let mut points: Vec<ThresholdPoint> =
            groups.iter().zip(&curves).map(|(group, curve)| self.point(group, curve)).collect();
        let abscissae: Vec<f64> = points.iter().map(|point| point.by_number).collect();
        let thresholds: Vec<f64> = points.iter().map(|point| point.threshold.value).collect();
        let fewest = curves.iter().flat_map(|curve| &curve.runs).map(Vec::len).min().unwrap_or(0);
        let mut line = self.line(&abscissae, &thresholds, false);
        let mut power_law = self.line(&abscissae, &thresholds, true);

        if fewest >= FEWEST_RUNS {
            let resampled = self.resample(&name, &curves, &abscissae);
            for (point, samples) in points.iter_mut().zip(&resampled.thresholds) {
                point.threshold.method =
                    format!("isotonic fit, percentile bootstrap over seeds ({RESAMPLES} resamples)");
                if !point.threshold.value.is_nan() {
                    set_interval(&mut point.threshold, samples);
                }
            }
            for (estimate, samples) in
                [(&mut line, &resampled.lines), (&mut power_law, &resampled.power_laws)]
            {
                if let Some(estimate) = estimate {
                    let method = format!(
                        "least squares, percentile bootstrap through the whole chain ({RESAMPLES} resamples)"
                    );
                    let (slopes, intercepts): (Vec<f64>, Vec<f64>) = samples.iter().copied().unzip();
                    set_interval(&mut estimate.slope, &slopes);
                    set_interval(&mut estimate.intercept, &intercepts);
                    (estimate.slope.method, estimate.intercept.method) = (method.clone(), method);
                }
            }
        } else {
            points.iter_mut().for_each(|point| self.small_sample_interval(point));
            for estimate in [&mut line, &mut power_law].into_iter().flatten() {
                (estimate.slope.low, estimate.slope.high) =
                    estimate.least_squares.slope_interval(self.confidence);
                estimate.slope.method = "least squares, t interval of the line".to_owned();
                estimate.slope.flag(Flag::FewRuns);
            }
        }
        ThresholdFacet { name, parameters, points, line, power_law }
    }

    /// Below five seeds: t over the thresholds of single seeds, around the estimate from all of them.
    fn small_sample_interval(&self, point: &mut ThresholdPoint) {
        let count = point.each_seed.len();
        if count == 0 {
            return;
        }
        point.threshold.flag(if count == 1 { Flag::SingleRun } else { Flag::FewRuns });
        if count >= 2
            && point.threshold.value.is_finite()
            && point.each_seed.iter().all(|value| value.is_finite())
        {
            let spread = mean::standard_deviation(&point.each_seed);
            let half = t_quantile(self.confidence, (count - 1) as f64) * spread / (count as f64).sqrt();
            point.threshold.low = point.threshold.value - half;
            point.threshold.high = point.threshold.value + half;
            point.threshold.method = format!("isotonic fit, t interval over the thresholds of {count} seeds");
            if spread == 0.0 {
                point.threshold.flag(Flag::ZeroVariance);
            }
        }
    }

    /// The line (or power law) through the thresholds that are not censored.
    fn line(&self, abscissae: &[f64], thresholds: &[f64], logarithms: bool) -> Option<LineEstimate> {
        let fitted = fit(abscissae, thresholds, logarithms)?;
        let estimate = |value| Estimate::point(value, self.confidence, "least squares", fitted.points);
        let intercept = if logarithms { fitted.intercept.exp() } else { fitted.intercept };
        Some(LineEstimate {
            slope: estimate(fitted.slope),
            intercept: estimate(intercept),
            least_squares: fitted,
            left_out: thresholds.len() - fitted.points,
        })
    }

    fn resample(&self, facet: &str, curves: &[Curve], abscissae: &[f64]) -> Resampled {
        let sizes: Vec<usize> = curves.iter().flat_map(|curve| curve.runs.iter().map(Vec::len)).collect();
        let weights: Vec<Vec<f64>> =
            curves.iter().map(|curve| curve.runs.iter().map(|runs| runs.len() as f64).collect()).collect();
        let mut all = Resampled {
            thresholds: vec![Vec::new(); curves.len()],
            lines: Vec::new(),
            power_laws: Vec::new(),
        };
        resample(&sizes, RESAMPLES, &format!("bootstrap/threshold/{facet}"), |drawn| {
            let mut strata = drawn.iter();
            let mut thresholds = Vec::with_capacity(curves.len());
            for ((curve, weights), samples) in curves.iter().zip(&weights).zip(&mut all.thresholds) {
                let means: Vec<f64> = curve
                    .runs
                    .iter()
                    .map(|runs| {
                        let indices = strata.next().map(Vec::as_slice).unwrap_or_default();
                        let total: f64 =
                            indices.iter().filter_map(|index| runs.get(*index)).map(|(_, value)| value).sum();
                        total / runs.len() as f64
                    })
                    .collect();
                let threshold = self.crossing(&curve.along, &means, weights).value();
                samples.push(threshold);
                thresholds.push(threshold);
            }
            let pair = |logarithms| match fit(abscissae, &thresholds, logarithms) {
                Some(line) if logarithms => (line.slope, line.intercept.exp()),
                Some(line) => (line.slope, line.intercept),
                None => (f64::NAN, f64::NAN),
            };
            all.lines.push(pair(false));
            all.power_laws.push(pair(true));
        });
        all
    }
}

/// Estimates of every resample.
struct Resampled {
    thresholds: Vec<Vec<f64>>,
    lines: Vec<(f64, f64)>,
    power_laws: Vec<(f64, f64)>,
}

fn fit(x: &[f64], y: &[f64], logarithms: bool) -> Option<Line> {
    let weights = vec![1.0; x.len()];
    if !logarithms {
        return line::fit(x, y, &weights);
    }
    // The logarithm of what is not positive is not finite, so those points take no part.
    let logarithm = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<f64>>();
    line::fit(&logarithm(x), &logarithm(y), &weights)
}

impl Analysis for Threshold {
    fn kind(&self) -> &'static str {
        "threshold"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn mentions(&self) -> Vec<&str> {
        let mut names = vec![self.along.as_str()];
        names.extend(self.by.as_deref());
        names
    }

    fn run(&self, data: &Dataset) -> AnalysisResult {
        let by: Vec<&str> = self.by.as_deref().into_iter().collect();
        let rest = data.labels_without(&self.mentions());
        let facets: Vec<ThresholdFacet> = data
            .group_by(&rest)
            .iter()
            .map(|facet| {
                let name = if rest.is_empty() { String::new() } else { describe(&rest, &facet.values) };
                let groups = group(facet.cells.iter().copied(), &by);
                self.facet(name, shared(&rest, facet), &groups)
            })
            .collect();
        let outcome = ThresholdOutcome {
            metric: self.metric.clone(),
            along: self.along.clone(),
            by: self.by.clone().unwrap_or_default(),
            level: self.level,
            logarithmic: self.logarithmic,
            facets,
        };
        let names: Vec<&str> = self.mentions();
        let title = format!(
            "Threshold of {}: where {} falls through {}",
            short_name(&self.along, &names),
            self.metric,
            number::human(self.level)
        );
        let mut tables = vec![tables::thresholds(&outcome, &title, self.confidence)];
        tables.extend(tables::lines(&outcome, self.confidence));
        let caveats = self.caveats(data, &outcome);
        AnalysisResult::new(self, title, tables, caveats, outcome)
    }
}

impl Threshold {
    fn caveats(&self, data: &Dataset, outcome: &ThresholdOutcome) -> Vec<String> {
        let mut caveats = caveats(data, &[&self.metric], false);
        let points = || outcome.facets.iter().flat_map(|facet| &facet.points);
        let numeric = data
            .cells
            .iter()
            .any(|cell| cell.parameter(&self.along).is_some_and(|value| value.as_number().is_some()));
        if !data.cells.is_empty() && !numeric {
            caveats.push(format!(
                "`{}` is not a number in any trial, so there is nothing to interpolate along.",
                self.along
            ));
        }
        let censored = points().filter(|point| point.threshold.value.is_infinite()).count();
        if censored > 0 {
            caveats.push(format!(
                "{censored} thresholds lie outside the measured range of {}: they are given as bounds and left out of the line.",
                self.along
            ));
        }
        let rises = |point: &&ThresholdPoint| {
            point.means.first().zip(point.means.last()).is_some_and(|(first, last)| *last > first + 0.1)
        };
        let rising = points().filter(rises).count();
        if rising > 0 {
            caveats.push(format!(
                "In {rising} groups {} rises along {} although a fall is fitted; the threshold means little there.",
                self.metric, self.along
            ));
        }
        if outcome
            .facets
            .iter()
            .filter_map(|facet| facet.line.as_ref())
            .any(|line| line.least_squares.points == 2)
        {
            caveats.push(
                "A line through two thresholds passes through both: its slope says nothing about whether the relation is \
                 straight."
                    .to_owned(),
            );
        }
        let scale = if self.logarithmic { "the logarithm of " } else { "" };
        caveats.push(format!(
            "Interpolated linearly in {scale}{} on the isotonic (non-increasing) fit.",
            self.along
        ));
        caveats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{counting, trial, with_curve};
    use plateau_common::node::Node;
    use plateau_common::results::TrialRecord;

    fn run(records: &[TrialRecord], options: serde_json::Value) -> AnalysisResult {
        let node = Node::from_json(&options);
        let mut fields = Fields::new("analysis", &node).unwrap();
        let common = Common { name: "threshold".to_owned(), confidence: 0.95, known: Default::default() };
        let preferred = ["task.vocab".to_owned(), "model.dim".to_owned()];
        read(&mut fields, common).unwrap().run(&Dataset::new(records, &preferred))
    }

    /// The published example: one width, six vocabularies.
    #[test]
    fn exact_values_through_the_chain() {
        let points =
            [(5.0, 0.9981), (10.0, 0.9344), (20.0, 0.3913), (30.0, 0.4256), (45.0, 0.1856), (60.0, 0.1644)];
        let records: Vec<TrialRecord> = points
            .iter()
            .map(|(vocab, accuracy)| {
                with_curve(trial(0, &[("task.vocab", *vocab)]), "test_accuracy", &[(9, *accuracy)])
            })
            .collect();
        for (log, expected) in [(false, 12.555), (true, 11.938)] {
            let result = run(&records, serde_json::json!({ "along": "task.vocab", "log": log }));
            let outcome: &ThresholdOutcome = result.outcome().unwrap();
            let point = &outcome.facets[0].points[0];
            assert!((point.threshold.value - expected).abs() < 5e-4);
            assert!(point.threshold.flags.contains(&Flag::SingleRun) && !point.threshold.has_interval());
            assert_eq!(outcome.facets[0].line.as_ref().map(|_| ()), None);
        }
    }

    #[test]
    fn thresholds_grow_with_width_and_the_slope_has_an_interval_around_the_truth() {
        for seeds in [3, 6] {
            let result =
                run(&counting(seeds), serde_json::json!({ "along": "task.vocab", "by": "model.dim" }));
            let outcome: &ThresholdOutcome = result.outcome().unwrap();
            let [facet] = outcome.facets.as_slice() else { panic!("one facet") };
            let values: Vec<f64> = facet.points.iter().map(|point| point.threshold.value).collect();
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{values:?}");
            for point in &facet.points {
                assert!(
                    point.threshold.low <= point.threshold.value
                        && point.threshold.value <= point.threshold.high
                );
                assert_eq!(point.each_seed.len(), seeds as usize);
            }
            let line = facet.line.as_ref().unwrap();
            assert!((line.slope.value - 1.4).abs() < 0.1, "{line:?}");
            assert!(line.slope.low < line.slope.value && line.slope.value < line.slope.high, "{line:?}");
            assert!(facet.power_law.is_some());
            let bootstrap = line.slope.method.contains("bootstrap");
            assert_eq!(bootstrap, seeds >= 5, "{}", line.slope.method);
        }
    }

    #[test]
    fn censored_thresholds_are_bounds_and_stay_out_of_the_line() {
        let mut records = counting(5);
        for record in
            records.iter_mut().filter(|record| record.parameters["model.dim"].as_number() == Some(32.0))
        {
            record.series.get_mut("test_accuracy").unwrap().values.fill(0.95);
        }
        let result = run(&records, serde_json::json!({ "along": "task.vocab", "by": "model.dim" }));
        let outcome: &ThresholdOutcome = result.outcome().unwrap();
        let facet = &outcome.facets[0];
        assert_eq!(facet.points[2].crossing, Crossing::Above(60.0));
        assert_eq!(facet.line.as_ref().unwrap().left_out, 1);
        assert!(result.caveats.iter().any(|caveat| caveat.contains("outside the measured range")));
        assert_eq!(result.tables[0].rows[2][1], "> 60");
    }
}
