//! Reads the parsed document of a study into its parts, after the command line's `--set` overrides are applied.

use super::Format;
use super::axis::{
    Axis, Group, SECTIONS, check_path, flatten_axes, read_axes, refuse_non_finite, refuse_repetition,
};
use super::conditions::{Condition, read_conditions};
use super::document;
use super::plan::{Plan, When};
use crate::fields::{ConfigError, ConfigResult, Fields};
use crate::limits;
use crate::node::{Entry, Node, Table, Value};

/// The parts of a study file.
pub(super) struct Definition {
    pub name: String,
    pub description: String,
    pub plan: Plan,
    pub analysis: Vec<Node>,
    pub figures: Vec<Node>,
    /// The whole document after overrides, axes with dotted keys: what the study's digest is taken of.
    pub document: Node,
}

/// Reads a study file and its overrides.
pub(super) fn read(text: &str, format: Format, overrides: &[(String, String)]) -> ConfigResult<Definition> {
    let mut root = document::parse(text, format)?;
    normalise_axes(&mut root)?;
    super::overrides::apply(&mut root, overrides)?;
    read_document(root)
}

/// Gives `axes` of the study and of its `[[when]]` blocks dotted keys.
fn normalise_axes(root: &mut Node) -> ConfigResult<()> {
    let Value::Table(root) = &mut root.value else { return Ok(()) };
    flatten_in_place(root, "axes")?;
    if let Some(Node { value: Value::Array(blocks), .. }) = root.get_mut("when") {
        for block in blocks {
            if let Value::Table(block) = &mut block.value {
                flatten_in_place(block, "when.axes")?;
            }
        }
    }
    Ok(())
}

fn flatten_in_place(table: &mut Table, key_path: &str) -> ConfigResult<()> {
    if let Some(Node { value: Value::Table(axes), .. }) = table.get_mut("axes") {
        *axes = flatten_axes(axes, key_path)?;
    }
    Ok(())
}

fn read_document(document: Node) -> ConfigResult<Definition> {
    let mut fields = Fields::new("", &document)?;
    let name = read_name(&mut fields)?;
    let description = fields.text("description")?.unwrap_or_default().to_owned();
    let mut base = Node { value: Value::Table(Table::default()), location: document.location };
    for section in SECTIONS {
        if let (Some(node), Value::Table(base)) = (fields.node(section), &mut base.value) {
            refuse_non_finite(node, section)?;
            let key_location = fields.location_of(section);
            base.entries.push(Entry { key: section.to_owned(), key_location, node: node.clone() });
        }
    }
    let mut axes = match fields.node("axes") {
        None => Vec::new(),
        Some(node) => read_axes(Fields::new("axes", node)?.into_table(), "axes")?,
    };
    read_seeds(&mut fields, &mut axes)?;
    let groups = group(axes, fields.node("zip"), "zip", "axes")?;
    let mut whens = Vec::new();
    for node in fields.array("when")?.unwrap_or_default() {
        whens.push(read_when(node, &groups)?);
    }
    let mut excludes: Vec<Vec<Condition>> = Vec::new();
    for node in fields.array("exclude")?.unwrap_or_default() {
        let conditions = read_conditions(Fields::new("exclude", node)?.into_table(), "exclude")?;
        if conditions.is_empty() {
            return Err(ConfigError::new("exclude", node.location, "an empty exclusion drops every trial")
                .suggest("name the values to drop, e.g. `\"model.dim\" = 8`"));
        }
        excludes.push(conditions);
    }
    let analysis = tables(&mut fields, "analysis")?;
    let figures = tables(&mut fields, "figure")?;
    fields.finish()?;
    let plan = Plan::new(base, groups, whens, excludes)?;
    Ok(Definition { name, description, plan, analysis, figures, document })
}

fn read_name(fields: &mut Fields<'_>) -> ConfigResult<String> {
    let name = fields.text("name")?;
    let name = fields.require("name", name)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.len() > limits::MAX_NAME_BYTES {
        return Err(fields
            .error("name", format!("the name has {} bytes", name.len()))
            .suggest(format!("at most {} bytes", limits::MAX_NAME_BYTES)));
    }
    if name.is_empty() || !name.bytes().all(allowed) || name.starts_with('.') {
        let repaired: String = name
            .to_lowercase()
            .chars()
            .map(|character| if character.is_ascii() && allowed(character as u8) { character } else { '-' })
            .collect();
        let repaired = repaired.trim_matches(['-', '.']);
        let error = fields.error("name", format!("`{}` is no name for a study", name.escape_debug()));
        let rule = "lower-case letters, digits, `-`, `_` and `.`, not starting with a dot";
        return Err(match repaired {
            "" => error.suggest(format!("use {rule}")),
            repaired => error.suggest(format!("use {rule}, e.g. `{repaired}`")),
        });
    }
    Ok(name.to_owned())
}

/// `seeds = 5` means the seeds 0 to 4, `seeds = [7, 8]` those; either is the axis `seed`, last and therefore fastest.
fn read_seeds(fields: &mut Fields<'_>, axes: &mut Vec<Axis>) -> ConfigResult<()> {
    let Some(node) = fields.node("seeds") else { return Ok(()) };
    let twice = if axes.iter().any(|axis| axis.path == "seed") {
        Some("the axis `seed`")
    } else {
        fields.node("seed").map(|_| "`seed`")
    };
    if let Some(other) = twice {
        return Err(fields
            .error("seeds", format!("the seeds are given twice: here and by {other}"))
            .suggest("keep one of them"));
    }
    let axis = match node.value {
        Value::Integer(_) => {
            let count = fields.integer("seeds", 1..=limits::MAX_AXIS_VALUES)?.unwrap_or(1);
            let seed = |seed: u64| Node { value: Value::Integer(seed as i64), location: node.location };
            Axis { path: "seed".to_owned(), values: (0..count).map(seed).collect(), location: node.location }
        }
        Value::Array(_) | Value::Table(_) => super::axis::read_axis("seed", "seeds", node.location, node)?,
        ref other => {
            return Err(fields
                .error(
                    "seeds",
                    format!(
                        "expected how many seeds or a list of them, found {} `{other}`",
                        other.type_name()
                    ),
                )
                .suggest("`seeds = 5` means the seeds 0 to 4"));
        }
    };
    axes.push(axis);
    Ok(())
}

/// Groups of axes, no group with two equal steps. `axes_path` is where the axes stand.
fn group(axes: Vec<Axis>, zip: Option<&Node>, key_path: &str, axes_path: &str) -> ConfigResult<Vec<Group>> {
    let groups = zip_groups(axes, zip, key_path)?;
    groups.iter().try_for_each(|group| refuse_repetition(group, axes_path))?;
    Ok(groups)
}

/// Joins the axes named together by `zip = [["a", "b"], …]`; a group stands where its first axis stood.
fn zip_groups(axes: Vec<Axis>, zip: Option<&Node>, key_path: &str) -> ConfigResult<Vec<Group>> {
    let mut groups: Vec<Group> = axes.into_iter().map(|axis| Group { axes: vec![axis] }).collect();
    let Some(zip) = zip else { return Ok(groups) };
    let error = |node: &Node, problem: String| ConfigError::new(key_path, node.location, problem);
    let shape = "write `zip = [[\"model.dim\", \"model.heads\"]]`: a list of lists of axes";
    let Value::Array(lists) = &zip.value else {
        return Err(error(zip, format!("expected a list, found {}", zip.value.type_name())).suggest(shape));
    };
    for list in lists {
        let Value::Array(members) = &list.value else {
            return Err(error(list, format!("expected a list of axes, found {}", list.value.type_name()))
                .suggest(shape));
        };
        let mut target: Option<usize> = None;
        for member in members {
            let Value::Text(path) = &member.value else {
                return Err(error(member, format!("expected an axis, found {}", member.value.type_name()))
                    .suggest(shape));
            };
            let found = groups.iter().position(|group| group.axes.iter().any(|axis| axis.path == *path));
            let Some(found) = found else {
                let known: Vec<&str> =
                    groups.iter().flat_map(|group| &group.axes).map(|axis| axis.path.as_str()).collect();
                let unknown = error(member, format!("`{path}` is no axis"));
                return Err(match crate::fields::nearest(path, known.iter().copied()) {
                    Some(axis) => unknown.suggest(format!("did you mean `{axis}`?")),
                    None => unknown.suggest(format!("the axes are: {}", known.join(", "))),
                });
            };
            let joined = groups.get(found).is_some_and(|group| group.axes.len() > 1);
            if joined || target == Some(found) {
                return Err(error(member, format!("the axis `{path}` is zipped twice"))
                    .suggest("name each axis once"));
            }
            match target {
                None => target = Some(found),
                Some(first) => {
                    let moved = groups.remove(found);
                    // The target moves up by one if the removed group stood before it.
                    let first = if found < first { first - 1 } else { first };
                    target = Some(first);
                    if let Some(group) = groups.get_mut(first) {
                        join(group, moved).map_err(|problem| {
                            error(member, problem)
                                .suggest("zipped axes advance together, so they need equally many values")
                        })?;
                    }
                }
            }
        }
    }
    Ok(groups)
}

fn join(group: &mut Group, other: Group) -> Result<(), String> {
    if let (Some(first), Some(second)) = (group.axes.first(), other.axes.first())
        && first.values.len() != second.values.len()
    {
        return Err(format!(
            "`{}` has {} values but `{}` has {}",
            first.path,
            first.values.len(),
            second.path,
            second.values.len()
        ));
    }
    group.axes.extend(other.axes);
    Ok(())
}

fn read_when(node: &Node, groups: &[Group]) -> ConfigResult<When> {
    let mut fields = Fields::new("when", node)?;
    let conditions = fields.table("match")?;
    let conditions = read_conditions(fields.require("match", conditions)?.into_table(), "when.match")?;
    if conditions.is_empty() {
        return Err(fields
            .error("match", "an empty match holds always")
            .suggest("name a value, e.g. `match = { \"model.norm\" = \"pre\" }`"));
    }
    let axes = match fields.table("axes")? {
        None => Vec::new(),
        Some(axes) => read_axes(axes.into_table(), "when.axes")?,
    };
    for axis in &axes {
        if groups.iter().flat_map(|group| &group.axes).any(|other| other.path == axis.path) {
            let problem = format!("`{}` is an axis of the whole study already", axis.path);
            return Err(ConfigError::new(format!("when.axes.{}", axis.path), axis.location, problem)
                .suggest("use `[[exclude]]` to drop values, or move the axis into `[[when]]` blocks only"));
        }
    }
    let mut set = Vec::new();
    if let Some(table) = fields.table("set")? {
        read_set(&mut set, table.into_table(), "")?;
    }
    if axes.is_empty() && set.is_empty() {
        return Err(ConfigError::new("when", node.location, "the block changes nothing")
            .suggest("give it `axes` or `set`"));
    }
    let groups = group(axes, fields.node("zip"), "when.zip", "when.axes")?;
    fields.finish()?;
    Ok(When { conditions, set, groups })
}

/// Reads `set`: dotted paths with values, which are taken whole; a section (`model = { … }`) is entered.
fn read_set(set: &mut Vec<(String, Node)>, table: &Table, section: &str) -> ConfigResult<()> {
    for entry in &table.entries {
        let path = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
        let key_path = format!("when.set.{path}");
        check_path(&path, &key_path, entry.key_location)?;
        match &entry.node.value {
            Value::Table(inner) if section.is_empty() && SECTIONS.contains(&path.as_str()) => {
                read_set(set, inner, &path)?;
            }
            _ => {
                refuse_non_finite(&entry.node, &key_path)?;
                set.push((path, entry.node.clone()));
            }
        }
    }
    Ok(())
}

fn tables(fields: &mut Fields<'_>, key: &'static str) -> ConfigResult<Vec<Node>> {
    let items = fields.array(key)?.unwrap_or_default();
    for item in items {
        if item.as_table().is_none() {
            let problem = format!("expected a table, found {}", item.value.type_name());
            return Err(ConfigError::new(key, item.location, problem).suggest(format!("write `[[{key}]]`")));
        }
    }
    Ok(items.to_vec())
}
