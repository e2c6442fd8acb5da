//! Which rule the runs of a group followed, and when, in a sentence.
//!
//! Where a grammar's sentences allow two rules, one by the order of the words and one by their hierarchy, and held-out
//! sentences tell them apart, a run takes one of a few courses. Each is counted, with the median steps of its runs.

use std::collections::BTreeMap;

use plateau_common::results::TrialRecord;

use super::middle;
use crate::number;
use crate::statistics::mean::mean;
use crate::transition::{Transition, Verdict};

/// The course that a run took, in the order in which they are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Course {
    LinearThenHierarchical,
    HierarchicalAtOnce,
    LinearThenNeither,
    LinearOnly,
    Neither,
    Unsaturated,
}

fn course(found: &Transition) -> Course {
    match (found.first, found.linear) {
        (Some(first), Some(linear)) if linear.from < first => Course::LinearThenHierarchical,
        (Some(_), _) => Course::HierarchicalAtOnce,
        (None, Some(linear)) if linear.lasts => Course::LinearOnly,
        (None, Some(_)) => Course::LinearThenNeither,
        (None, None) if found.saturation.is_some() => Course::Neither,
        (None, None) => Course::Unsaturated,
    }
}

/// The median of some steps, and where they differ the first and the last: ` (3000 to 9000)`.
struct Steps {
    middle: String,
    range: String,
}

impl Steps {
    fn of(steps: impl Iterator<Item = u64>) -> Steps {
        let mut steps: Vec<f64> = steps.map(|step| step as f64).collect();
        steps.sort_by(f64::total_cmp);
        let range = match (steps.first(), steps.last()) {
            (Some(first), Some(last)) if first < last => {
                format!(" ({} to {})", number::human(*first), number::human(*last))
            }
            _ => String::new(),
        };
        Steps { middle: number::human(middle(&steps)), range }
    }
}

/// What the runs with curves did, one part per course, the share of runs with each. `verdicts` are those of all runs.
pub fn sentence(verdicts: &BTreeMap<&'static str, usize>, seen: &[&(&TrialRecord, Transition)]) -> String {
    if seen.is_empty() {
        return "no run has been evaluated yet.".to_owned();
    }
    let mut courses: BTreeMap<Course, Vec<&Transition>> = BTreeMap::new();
    for (_, found) in seen {
        courses.entry(course(found)).or_default().push(found);
    }
    let mut parts: Vec<String> =
        courses.iter().map(|(course, runs)| part(*course, runs, seen.len())).collect();
    let fallen = verdicts.get(Verdict::Unstable.phrase()).copied().unwrap_or(0);
    if fallen > 0 {
        parts.push(format!("of those that became hierarchical, {fallen} ended below the level again"));
    }
    format!("{}.", parts.join("; "))
}

fn part(course: Course, runs: &[&Transition], all: usize) -> String {
    let count = format!("({} of {all} {})", runs.len(), if all == 1 { "seed" } else { "seeds" });
    let from = Steps::of(runs.iter().filter_map(|found| Some(found.linear?.from)));
    let to = Steps::of(runs.iter().filter_map(|found| Some(found.linear?.to)));
    let first = Steps::of(runs.iter().filter_map(|found| found.first));
    let phase = if from.middle == to.middle {
        format!("step {}", from.middle)
    } else {
        format!("steps {} … {}", from.middle, to.middle)
    };
    match course {
        Course::LinearThenHierarchical => {
            format!(
                "linear rule first ({phase}), hierarchical from step {}{} {count}",
                first.middle, first.range
            )
        }
        Course::HierarchicalAtOnce => {
            format!(
                "hierarchical from step {}{} without the linear rule before {count}",
                first.middle, first.range
            )
        }
        Course::LinearThenNeither => {
            let ends: Vec<f64> = runs.iter().filter_map(|found| found.final_value).collect();
            let end = number::significant(mean(&ends), 2);
            format!("linear rule first ({phase}), then neither, ending at {end} {count}")
        }
        Course::LinearOnly => {
            format!("linear rule only, from step {}{} to the end {count}", from.middle, from.range)
        }
        Course::Neither => format!("neither rule {count}"),
        Course::Unsaturated => format!("in-domain accuracy not saturated {count}"),
    }
}
