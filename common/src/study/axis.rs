//! Axes: a dotted path and the values it takes, from lists or from `range`, `linspace` and `logspace`.

use crate::fields::{ConfigError, ConfigResult, Fields, nearest};
use crate::limits;
use crate::node::{Entry, Location, Node, Table, Value};

/// One dimension of the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Dotted path of the configuration value, e.g. `model.dim`.
    pub path: String,
    /// Its values in order, at least one, all different.
    pub values: Vec<Node>,
    /// Where the axis was written.
    pub location: Option<Location>,
}

/// Axes that move together; all of one length. An axis that is not zipped is a group of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub axes: Vec<Axis>,
}

impl Group {
    /// Number of steps of the group.
    pub fn len(&self) -> usize {
        self.axes.first().map_or(0, |axis| axis.values.len())
    }
}

/// The tables and values a dotted path may start with.
pub(super) const SECTIONS: [&str; 7] = ["task", "model", "train", "evaluate", "checkpoint", "seed", "fork"];

const SPECIFICATIONS: [&str; 4] = ["values", "range", "linspace", "logspace"];
const SPECIFICATION_KEYS: [&str; 7] = ["values", "range", "linspace", "logspace", "count", "round", "base"];

/// Checks that `path`, written at `key_path`, is a dotted path into the configuration.
pub(super) fn check_path(path: &str, key_path: &str, location: Option<Location>) -> ConfigResult<()> {
    let error = |problem: String| ConfigError::new(key_path, location, problem);
    let first = path.split('.').next().unwrap_or_default();
    if !SECTIONS.contains(&first) {
        let error = error(format!("`{path}` is no path of the configuration"));
        return Err(match nearest(first, SECTIONS) {
            Some(section) => error.suggest(format!("did you mean `{section}{}`?", &path[first.len()..])),
            None => error.suggest(format!("paths start with one of: {}", SECTIONS.join(", "))),
        });
    }
    if path.split('.').any(str::is_empty) {
        return Err(error(format!("`{path}` has an empty part")).suggest("write e.g. `model.dim`"));
    }
    if path.split('.').count() > limits::MAX_NESTING {
        return Err(error(format!("the path has more than {} parts", limits::MAX_NESTING)));
    }
    Ok(())
}

/// Rewrites nested tables of axes (`model.dim = [8]` without quotation marks) as one table with dotted keys.
pub(super) fn flatten_axes(axes: &Table, key_path: &str) -> ConfigResult<Table> {
    let mut flat = Table::default();
    flatten_into(&mut flat, axes, "", key_path)?;
    Ok(flat)
}

fn flatten_into(flat: &mut Table, table: &Table, prefix: &str, key_path: &str) -> ConfigResult<()> {
    for entry in &table.entries {
        let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
        match &entry.node.value {
            Value::Table(inner) if !is_specification(inner) && !inner.entries.is_empty() => {
                flatten_into(flat, inner, &path, key_path)?;
            }
            _ if flat.get(&path).is_some() => {
                return Err(ConfigError::new(
                    format!("{key_path}.{path}"),
                    entry.key_location,
                    "the axis is given twice",
                )
                .suggest("keep one of the two"));
            }
            _ => flat.entries.push(Entry { key: path, ..entry.clone() }),
        }
    }
    Ok(())
}

fn is_specification(table: &Table) -> bool {
    table.entries.iter().any(|entry| nearest(&entry.key, SPECIFICATION_KEYS).is_some())
}

/// Reads flattened axes in file order.
pub(super) fn read_axes(axes: &Table, key_path: &str) -> ConfigResult<Vec<Axis>> {
    axes.entries
        .iter()
        .map(|entry| {
            let key = format!("{key_path}.{}", entry.key);
            check_path(&entry.key, &key, entry.key_location)?;
            read_axis(&entry.key, &key, entry.key_location, &entry.node)
        })
        .collect()
}

/// Reads one axis: a list, or a table with one of `values`, `range`, `linspace`, `logspace`.
pub(super) fn read_axis(path: &str, key_path: &str, at: Option<Location>, node: &Node) -> ConfigResult<Axis> {
    let location = at.or(node.location);
    let values = match &node.value {
        Value::Array(items) => explicit(items, key_path)?,
        Value::Table(_) => specified(Fields::new(key_path, node)?, node)?,
        other => {
            let problem = format!("expected a list of values, found {} `{other}`", other.type_name());
            return Err(ConfigError::new(key_path, node.location, problem).suggest(format!(
                "write `[{other}]`, or `{{ range = [0, 5] }}`, or set the value in its own section"
            )));
        }
    };
    if values.is_empty() {
        return Err(ConfigError::new(key_path, node.location.or(location), "the axis has no values")
            .suggest("give at least one value, or remove the axis"));
    }
    Ok(Axis { path: path.to_owned(), values, location })
}

fn explicit(items: &[Node], key_path: &str) -> ConfigResult<Vec<Node>> {
    for item in items {
        refuse_non_finite(item, key_path)?;
    }
    Ok(items.to_vec())
}

/// Refuses a group two of whose steps are the same; of axes that are zipped all must be. `key_path` is the table of axes.
pub(super) fn refuse_repetition(group: &Group, key_path: &str) -> ConfigResult<()> {
    let mut seen = std::collections::HashMap::new();
    for index in 0..group.len() {
        let step: Vec<&Node> = group.axes.iter().filter_map(|axis| axis.values.get(index)).collect();
        let texts: Vec<String> = step.iter().map(|item| canonical_text(item)).collect();
        let Some(first) = seen.insert(texts, index) else { continue };
        let (Some(axis), Some(item)) = (group.axes.first(), step.first()) else { continue };
        let values: Vec<String> = step.iter().map(|item| format!("`{}`", item.value)).collect();
        let (what, values) = (if step.len() == 1 { "value" } else { "values" }, values.join(", "));
        let occur = if step.len() == 1 { "occurs" } else { "occur" };
        let problem = format!("the {what} {values} {occur} twice (places {} and {})", first + 1, index + 1);
        return Err(ConfigError::new(format!("{key_path}.{}", axis.path), item.location, problem)
            .suggest("remove one; for replicates use the axis `seed`"));
    }
    Ok(())
}

/// A text that is equal for equal values; 1 and 1.0 are equal.
fn canonical_text(node: &Node) -> String {
    match node.value {
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => (value as i64).to_string(),
        _ => node.to_json().to_string(),
    }
}

/// Refuses NaN and infinities anywhere inside `node`.
pub(super) fn refuse_non_finite(node: &Node, key_path: &str) -> ConfigResult<()> {
    match &node.value {
        Value::Float(value) if !value.is_finite() => {
            Err(ConfigError::new(key_path, node.location, format!("{value} is not a finite number"))
                .suggest("every value of a study is a finite number"))
        }
        Value::Array(items) => items.iter().try_for_each(|item| refuse_non_finite(item, key_path)),
        Value::Table(table) => {
            table.entries.iter().try_for_each(|entry| refuse_non_finite(&entry.node, key_path))
        }
        _ => Ok(()),
    }
}

fn specified(mut fields: Fields<'_>, node: &Node) -> ConfigResult<Vec<Node>> {
    let given: Vec<&str> = SPECIFICATIONS
        .into_iter()
        .filter(|word| node.as_table().is_some_and(|table| table.get(word).is_some()))
        .collect();
    let location = node.location;
    let axis_path = fields.path().to_owned();
    let error = |problem: String| ConfigError::new(&axis_path, location, problem);
    let word = match given.as_slice() {
        [word] => *word,
        [] => {
            // The unread keys name the slip, if there is one.
            fields.array("values")?;
            for key in ["range", "linspace", "logspace", "count", "round", "base"] {
                fields.node(key);
            }
            let missing = error("the axis has no values".to_owned())
                .suggest("give `values`, `range`, `linspace` or `logspace`");
            fields.finish()?;
            return Err(missing);
        }
        [first, second, ..] => {
            return Err(
                error(format!("`{first}` and `{second}` both describe the axis")).suggest("keep one of them")
            );
        }
    };
    let path = fields.path_of(word);
    let values = match word {
        "values" => explicit(fields.array("values")?.unwrap_or_default(), &path)?,
        "range" => range(&mut fields)?,
        spacing => {
            spaced(&mut fields, if spacing == "linspace" { Spacing::Linear } else { Spacing::Logarithmic })?
        }
    };
    let at = fields.location_of(word);
    fields.finish()?;
    Ok(values.into_iter().map(|value| Node { location: value.location.or(at), ..value }).collect())
}

/// `{ range = [start, stop, step] }`: start, start + step, … before `stop`, which is left out; step defaults to 1.
fn range(fields: &mut Fields<'_>) -> ConfigResult<Vec<Node>> {
    let items = fields.array("range")?.unwrap_or_default();
    let mut numbers = Vec::with_capacity(3);
    for item in items {
        let Value::Integer(number) = item.value else {
            let problem = format!("expected integers, found {} `{}`", item.value.type_name(), item.value);
            return Err(ConfigError::new(fields.path_of("range"), item.location, problem)
                .suggest("for fractions use `linspace`"));
        };
        numbers.push(number);
    }
    let (start, stop, step) = match numbers.as_slice() {
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] => (*start, *stop, *step),
        _ => {
            return Err(fields
                .error(
                    "range",
                    format!("expected [start, stop] or [start, stop, step], found {} numbers", items.len()),
                )
                .suggest("`range = [0, 3]` means 0, 1, 2"));
        }
    };
    if step == 0 {
        return Err(fields
            .error("range", "the step is 0, so the range never ends")
            .suggest("use a step such as 1 or -1"));
    }
    let span = i128::from(stop) - i128::from(start);
    let step_wide = i128::from(step);
    let count = if span.signum() == step_wide.signum() {
        (span.unsigned_abs()).div_ceil(step_wide.unsigned_abs())
    } else {
        0
    };
    if count == 0 {
        return Err(fields
            .error("range", format!("the range from {start} to {stop} by {step} is empty"))
            .suggest("the stop is left out: `range = [0, 3]` means 0, 1, 2"));
    }
    check_count(fields, "range", count)?;
    // All values lie between start and stop, so they fit.
    Ok((0..count as i128)
        .map(|index| Node::new(Value::Integer((i128::from(start) + index * step_wide) as i64)))
        .collect())
}

fn check_count(fields: &Fields<'_>, key: &str, count: u128) -> ConfigResult<()> {
    if count > u128::from(limits::MAX_AXIS_VALUES) {
        return Err(fields
            .error(key, format!("an axis of {count} values is too long"))
            .suggest(format!("at most {} values", limits::MAX_AXIS_VALUES)));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Spacing {
    Linear,
    Logarithmic,
}

/// `{ linspace | logspace = [first, last], count, round, base }`, both ends included.
fn spaced(fields: &mut Fields<'_>, spacing: Spacing) -> ConfigResult<Vec<Node>> {
    let word = if spacing == Spacing::Linear { "linspace" } else { "logspace" };
    let items = fields.array(word)?.unwrap_or_default();
    let [first, last] = items else {
        return Err(fields
            .error(word, format!("expected [first, last], found {} values", items.len()))
            .suggest(format!("e.g. `{{ {word} = [1, 100], count = 5 }}`")));
    };
    let all_integers = [first, last].iter().all(|node| matches!(node.value, Value::Integer(_)));
    let (mut low, mut high) = (bound(fields, word, first)?, bound(fields, word, last)?);
    let count = fields.integer("count", 1..=limits::MAX_AXIS_VALUES)?;
    let count = fields.require("count", count)?;
    let round = fields.boolean("round")?.unwrap_or(false);
    if spacing == Spacing::Logarithmic {
        if let Some(base) = fields.number("base", f64::MIN_POSITIVE..=1e300)? {
            if base == 1.0 {
                return Err(fields
                    .error("base", "every power of 1 is 1")
                    .suggest("use base = 10 or base = 2"));
            }
            (low, high) = (base.powf(low), base.powf(high));
            if !(low.is_finite() && high.is_finite()) {
                return Err(fields
                    .error(word, "the powers are not finite numbers")
                    .suggest("use smaller exponents"));
            }
        }
        if low <= 0.0 || high <= 0.0 {
            return Err(fields
                .error(word, format!("log spacing needs positive ends, found {low} and {high}"))
                .suggest("use `linspace`, or start above 0"));
        }
    }
    if count == 1 && low != high {
        return Err(fields
            .error("count", format!("one value cannot span {low} to {high}"))
            .suggest("use count = 2 or more"));
    }
    if count > 1 && low == high {
        return Err(fields
            .error(word, format!("both ends are {low}, so all {count} values are equal"))
            .suggest("use different ends, or a plain list"));
    }
    Ok(space(spacing, low, high, count, round, all_integers))
}

fn bound(fields: &Fields<'_>, word: &str, node: &Node) -> ConfigResult<f64> {
    let error = |problem| ConfigError::new(fields.path_of(word), node.location, problem);
    match node.value {
        Value::Integer(number) => Ok(number as f64),
        Value::Float(number) if number.is_finite() => Ok(number),
        Value::Float(number) => {
            Err(error(format!("{number} is not a finite number")).suggest("both ends must be finite"))
        }
        ref other => Err(error(format!("expected a number, found {} `{other}`", other.type_name()))),
    }
}

fn space(spacing: Spacing, low: f64, high: f64, count: u64, round: bool, all_integers: bool) -> Vec<Node> {
    let mut numbers: Vec<f64> = (0..count)
        .map(|index| {
            if index == 0 {
                return low;
            }
            if index + 1 == count {
                return high;
            }
            let share = index as f64 / (count - 1) as f64;
            twelve_digits(match spacing {
                Spacing::Linear => low + (high - low) * share,
                Spacing::Logarithmic => (low.ln() + (high.ln() - low.ln()) * share).exp(),
            })
        })
        .collect();
    if round {
        numbers.iter_mut().for_each(|number| *number = number.round());
        numbers.dedup();
    }
    // Whole numbers stay whole, so that `linspace = [8, 32]` can name a width.
    let whole = round || (all_integers && numbers.iter().all(|number| number.fract() == 0.0));
    numbers
        .into_iter()
        .map(|number| {
            let fits = whole && number.abs() < 9e18;
            Node::new(if fits { Value::Integer(number as i64) } else { Value::Float(number) })
        })
        .collect()
}

/// Twelve significant digits: 0.001 rather than 0.0010000000000000002, on every machine, so that a trial keeps its
/// identity whichever way its value was written.
fn twelve_digits(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}
