//! The grid of a study: stages that are walked depth first, one combination at a time, and counted without expanding.
//!
//! A stage is a group of axes or a `[[when]]` block. The first stage varies slowest, the last fastest. For counting, the
//! groups that no condition mentions are multiplied instead of walked.

use super::axis::{Axis, Group};
use super::conditions::Condition;
use crate::fields::{ConfigError, ConfigResult, nearest};
use crate::limits;
use crate::node::{Location, Node, Value};

/// `[[when]]`: values and axes that only some combinations have.
#[derive(Clone, Debug)]
pub(super) struct When {
    pub conditions: Vec<Condition>,
    pub set: Vec<(String, Node)>,
    pub groups: Vec<Group>,
}

#[derive(Clone, Debug)]
enum Stage {
    Group(Group),
    When(When),
}

/// Everything that decides which combinations exist.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The base configuration.
    pub base: Node,
    stages: Vec<Stage>,
    excludes: Vec<Vec<Condition>>,
}

/// A value given to a path by an axis or by `set`.
#[derive(Clone, Copy)]
pub(super) struct Assignment<'a> {
    pub path: &'a str,
    pub node: &'a Node,
}

impl Plan {
    /// Builds the plan and checks that every condition names a path and a value that can occur.
    pub fn new(
        base: Node,
        groups: Vec<Group>,
        whens: Vec<When>,
        excludes: Vec<Vec<Condition>>,
    ) -> ConfigResult<Plan> {
        let stages = groups.into_iter().map(Stage::Group).chain(whens.into_iter().map(Stage::When)).collect();
        let plan = Plan { base, stages, excludes };
        plan.conditions().try_for_each(|condition| plan.check_condition(condition))?;
        Ok(plan)
    }

    /// All axes in the order of the stages; conditional ones too.
    pub fn axes(&self) -> impl Iterator<Item = &Axis> {
        self.groups().flat_map(|group| &group.axes)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.stages.iter().flat_map(|stage| match stage {
            Stage::Group(group) => std::slice::from_ref(group),
            Stage::When(when) => when.groups.as_slice(),
        })
    }

    /// Paths and values that `[[when]]` blocks set.
    pub fn set_values(&self) -> impl Iterator<Item = &(String, Node)> {
        self.stages.iter().flat_map(|stage| match stage {
            Stage::Group(_) => &[],
            Stage::When(when) => when.set.as_slice(),
        })
    }

    /// Where the first exclusion was written.
    pub fn first_exclusion(&self) -> Option<Location> {
        self.excludes.first()?.first()?.location
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let of_whens = self.stages.iter().flat_map(|stage| match stage {
            Stage::Group(_) => &[],
            Stage::When(when) => when.conditions.as_slice(),
        });
        of_whens.chain(self.excludes.iter().flatten())
    }

    fn check_condition(&self, condition: &Condition) -> ConfigResult<()> {
        let path = condition.path.as_str();
        let from_axes =
            self.axes().flat_map(|axis| axis.values.iter().map(|value| (axis.path.as_str(), value)));
        let from_sets = self.set_values().map(|(path, value)| (path.as_str(), value));
        let mut known: Vec<&Node> = from_axes
            .chain(from_sets)
            .filter_map(|(assigned, value)| value_inside(assigned, value, path))
            .collect();
        known.extend(self.base.at_path(path));
        if known.is_empty() {
            let error = ConfigError::new(
                &condition.key_path,
                condition.location,
                format!("no trial is given `{path}`"),
            );
            let paths: Vec<&str> = self.axes().map(|axis| axis.path.as_str()).collect();
            return Err(match nearest(path, paths) {
                Some(axis) => error.suggest(format!("did you mean `{axis}`?")),
                None => {
                    error.suggest("conditions look at axes and at values written in the base configuration")
                }
            });
        }
        let never = condition.values.iter().find(|value| {
            !known.iter().any(|candidate| super::conditions::same_value(&candidate.value, &value.value))
        });
        let Some(never) = never else { return Ok(()) };
        let location = never.location.or(condition.location);
        let problem = format!("`{path}` is never `{}`", never.value);
        let error = ConfigError::new(&condition.key_path, location, problem);
        let mut shown: Vec<String> = known.iter().take(12).map(|value| value.value.to_string()).collect();
        shown.dedup();
        if known.len() > 12 {
            shown.push("…".to_owned());
        }
        Err(error.suggest(format!("its values are: {}", shown.join(", "))))
    }

    /// The value that a combination gives to `path`: the most exact assignment, else the base configuration.
    fn value<'s>(&'s self, assigned: &[Assignment<'s>], path: &str) -> Option<&'s Node> {
        let covers = |assignment: &&Assignment<'_>| is_inside(path, assignment.path);
        // `max_by_key` returns the last of several: of equally exact assignments the later one counts.
        match assigned.iter().filter(covers).max_by_key(|assignment| assignment.path.len()) {
            Some(assignment) => value_inside(assignment.path, assignment.node, path),
            None => self.base.at_path(path),
        }
    }

    fn holds(&self, conditions: &[Condition], assigned: &[Assignment<'_>]) -> bool {
        conditions.iter().all(|condition| condition.holds(self.value(assigned, &condition.path)))
    }

    fn is_excluded(&self, assigned: &[Assignment<'_>]) -> bool {
        self.excludes.iter().any(|conditions| self.holds(conditions, assigned))
    }

    /// Whether a condition looks at a value of this group.
    fn is_relevant(&self, group: &Group) -> bool {
        group.axes.iter().any(|axis| {
            self.conditions().any(|condition| {
                is_inside(&condition.path, &axis.path) || is_inside(&axis.path, &condition.path)
            })
        })
    }

    /// The number of combinations. Exact: groups that no condition mentions are multiplied, the others are walked, at
    /// most `limits::MAX_EXAMINED_COMBINATIONS` of them.
    pub fn count(&self) -> Result<u128, Uncountable> {
        let mut walker = Walker::new(self, true);
        let (mut total, mut looked) = (0u128, 0u64);
        while walker.advance() {
            looked += 1;
            if looked > limits::MAX_EXAMINED_COMBINATIONS {
                return Err(Uncountable::Conditions);
            }
            if !self.is_excluded(&walker.assigned) {
                let here = walker.multiplicity().ok_or(Uncountable::Overflow)?;
                total = total.checked_add(here).ok_or(Uncountable::Overflow)?;
            }
        }
        Ok(total)
    }

    /// Walks all combinations in order, the excluded ones left out.
    pub fn combinations(&self) -> Combinations<'_> {
        Combinations { walker: Walker::new(self, false) }
    }

    /// The configuration table of one combination. Shorter paths are set first, so that an axis over `train.optimizer`
    /// can be refined by one over `train.optimizer.lr`.
    pub fn configuration(&self, assigned: &[Assignment<'_>]) -> ConfigResult<Node> {
        let mut order: Vec<&Assignment<'_>> = assigned.iter().collect();
        order.sort_by_key(|assignment| assignment.path.split('.').count());
        let mut root = self.base.clone();
        for assignment in order {
            root.set_path(assignment.path, assignment.node.clone()).map_err(|prefix| {
                let problem = format!("`{prefix}` is not a table, so nothing inside it can be set");
                ConfigError::new(assignment.path, assignment.node.location, problem)
                    .suggest("check the path of the axis")
            })?;
        }
        Ok(root)
    }
}

/// Why the combinations could not be counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Uncountable {
    /// More than 2^128.
    Overflow,
    /// More combinations than may be examined are mentioned by conditions.
    Conditions,
}

/// Whether `path` is `outer` or lies inside it.
pub(super) fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The value at `path` where the value at `outer` is `value`.
fn value_inside<'a>(outer: &str, value: &'a Node, path: &str) -> Option<&'a Node> {
    if !is_inside(path, outer) {
        return None;
    }
    match path.get(outer.len() + 1..) {
        None => Some(value),
        Some(rest) => value.at_path(rest),
    }
}

/// A stage that has been entered.
struct Frame {
    /// Choices of this stage in this combination, and the one taken.
    choices: u128,
    chosen: u128,
    /// Combinations that one choice stands for (counting only).
    multiplicity: Option<u128>,
    /// Number of assignments made by earlier stages.
    assigned_before: usize,
    /// For a `[[when]]` block: whether it holds.
    holds: bool,
}

/// Depth-first walk over the stages.
struct Walker<'a> {
    plan: &'a Plan,
    /// Multiply groups that no condition mentions instead of walking them.
    counting: bool,
    relevant: Vec<bool>,
    frames: Vec<Frame>,
    assigned: Vec<Assignment<'a>>,
    started: bool,
}

impl<'a> Walker<'a> {
    fn new(plan: &'a Plan, counting: bool) -> Self {
        let relevant = plan.groups().map(|group| !counting || plan.is_relevant(group)).collect();
        Walker { plan, counting, relevant, frames: Vec::new(), assigned: Vec::new(), started: false }
    }

    /// Moves to the next combination, excluded or not; false after the last.
    fn advance(&mut self) -> bool {
        if self.started {
            loop {
                let Some(frame) = self.frames.last_mut() else { return false };
                self.assigned.truncate(frame.assigned_before);
                frame.chosen += 1;
                if frame.chosen < frame.choices {
                    break;
                }
                self.frames.pop();
            }
            self.choose();
        }
        self.started = true;
        while self.frames.len() < self.plan.stages.len() {
            self.enter();
            self.choose();
        }
        true
    }

    /// Combinations that the current one stands for; `None` beyond 2^128.
    fn multiplicity(&self) -> Option<u128> {
        self.frames.iter().try_fold(1u128, |product, frame| product.checked_mul(frame.multiplicity?))
    }

    /// The groups of a stage with their relevance, if the stage holds.
    fn groups_of(
        &self,
        stage: usize,
        holds: bool,
    ) -> impl DoubleEndedIterator<Item = (&'a Group, bool)> + use<'a> {
        let first: usize = self.plan.stages.iter().take(stage).map(Stage::group_count).sum();
        let groups: &'a [Group] = match self.plan.stages.get(stage) {
            Some(Stage::Group(group)) => std::slice::from_ref(group),
            Some(Stage::When(when)) if holds => &when.groups,
            _ => &[],
        };
        let relevant: Vec<bool> = self.relevant.iter().skip(first).take(groups.len()).copied().collect();
        groups.iter().zip(relevant)
    }

    fn enter(&mut self) {
        let stage = self.frames.len();
        let holds = match self.plan.stages.get(stage) {
            Some(Stage::When(when)) => self.plan.holds(&when.conditions, &self.assigned),
            _ => true,
        };
        let (mut choices, mut multiplicity) = (1u128, Some(1u128));
        for (group, walked) in self.groups_of(stage, holds) {
            let length = group.len() as u128;
            if walked {
                // A walk this long never ends; it is cut off by the limit on examined combinations.
                choices = choices.saturating_mul(length);
            } else {
                multiplicity = multiplicity.and_then(|product| product.checked_mul(length));
            }
        }
        debug_assert!(self.counting || multiplicity == Some(1));
        let assigned_before = self.assigned.len();
        self.frames.push(Frame { choices, chosen: 0, multiplicity, assigned_before, holds });
    }

    /// Makes the assignments of the choice taken at the last stage entered.
    fn choose(&mut self) {
        let stage = self.frames.len().saturating_sub(1);
        let Some(Frame { chosen, holds, .. }) = self.frames.last() else { return };
        let (mut rest, holds) = (*chosen, *holds);
        if let (Some(Stage::When(when)), true) = (self.plan.stages.get(stage), holds) {
            self.assigned.extend(when.set.iter().map(|(path, node)| Assignment { path, node }));
        }
        let start = self.assigned.len();
        // The last group varies fastest, so the choice is taken apart from the end.
        for (group, walked) in self.groups_of(stage, holds).rev() {
            if !walked {
                continue;
            }
            let index = (rest % group.len() as u128) as usize;
            rest /= group.len() as u128;
            let chosen =
                group.axes.iter().rev().filter_map(|axis| {
                    axis.values.get(index).map(|node| Assignment { path: &axis.path, node })
                });
            self.assigned.extend(chosen);
        }
        if let Some(made) = self.assigned.get_mut(start..) {
            made.reverse();
        }
    }
}

impl Stage {
    fn group_count(&self) -> usize {
        match self {
            Stage::Group(_) => 1,
            Stage::When(when) => when.groups.len(),
        }
    }
}

/// The combinations of a plan, in order.
pub(super) struct Combinations<'a> {
    walker: Walker<'a>,
}

impl<'a> Combinations<'a> {
    /// The next combination's assignments; later ones count more.
    pub fn next(&mut self) -> Option<&[Assignment<'a>]> {
        while self.walker.advance() {
            if !self.walker.plan.is_excluded(&self.walker.assigned) {
                return Some(&self.walker.assigned);
            }
        }
        None
    }
}

/// A combination in words: `model.dim = 8 (line 12), seed = 0 (line 14)`.
pub(super) fn describe(assigned: &[Assignment<'_>]) -> String {
    let word = |node: &Node| match &node.value {
        Value::Text(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    let part = |assignment: &Assignment<'_>| {
        let place =
            assignment.node.location.map_or(String::new(), |location| format!(" (line {})", location.line));
        format!("{} = {}{place}", assignment.path, word(assignment.node))
    };
    let parts: Vec<String> = assigned.iter().map(part).collect();
    parts.join(", ")
}
