//! `--set path=value`: changes to a study from the command line.
//!
//! The value is read as a TOML value and, where it is none, as a word. A path into the configuration replaces the value
//! of the base; an axis over that path, and `[[when]]` values of it, give way to it. `axes.PATH` replaces or adds an axis,
//! `seeds` the seeds. Other top-level keys (`name`, `exclude` …) are replaced whole.

use super::axis::{SECTIONS, check_path};
use super::document::parse_toml_value;
use super::plan::is_inside;
use crate::fields::{ConfigError, ConfigResult, nearest};
use crate::limits;
use crate::node::{Node, Table, Value};

/// Applies the overrides in order; later ones win. `axes` tables in `root` have dotted keys already.
pub(super) fn apply(root: &mut Node, overrides: &[(String, String)]) -> ConfigResult<()> {
    let bytes: usize = overrides.iter().map(|(path, value)| path.len() + value.len()).sum();
    if bytes > limits::MAX_STUDY_BYTES {
        let problem =
            format!("the overrides have {bytes} bytes; at most {} are read", limits::MAX_STUDY_BYTES);
        return Err(
            ConfigError::new("", None, problem).suggest("put long lists of values into the study file")
        );
    }
    let Value::Table(root) = &mut root.value else { return Ok(()) };
    for (path, text) in overrides {
        apply_one(root, path, read_value(path, text)?)?;
    }
    Ok(())
}

fn read_value(path: &str, text: &str) -> ConfigResult<Node> {
    match parse_toml_value(text.trim()) {
        Ok(node) => Ok(node),
        // What opens like a list, a table or a quoted word was not meant as a bare word.
        Err(error) if text.trim_start().starts_with(['[', '{', '"', '\'']) => {
            Err(ConfigError::new(path, None, error.problem).suggest("write the value as TOML"))
        }
        Err(_) => Ok(Node::new(Value::Text(text.to_owned()))),
    }
}

fn apply_one(root: &mut Table, path: &str, node: Node) -> ConfigResult<()> {
    if let Some(axis) = path.strip_prefix("axes.") {
        check_path(axis, path, None)?;
        if axis == "seed" {
            root.remove("seeds");
        }
        if root.get("axes").is_none() {
            root.set("axes", Node::empty_table());
        }
        if let Some(Node { value: Value::Table(axes), .. }) = root.get_mut("axes") {
            axes.set(axis, node);
        }
        return Ok(());
    }
    let first = path.split('.').next().unwrap_or_default();
    if SECTIONS.contains(&first) {
        check_path(path, path, None)?;
        displace_axes(root, path)?;
    }
    if path == "seeds" {
        root.remove("seed");
        remove_axes(root, "seed");
    }
    if path == "seed" {
        root.remove("seeds");
    }
    if !SECTIONS.contains(&first) && path.contains('.') {
        let error = ConfigError::new(path, None, "only paths of the configuration and of axes can be set");
        return Err(match nearest(first, SECTIONS) {
            Some(section) => {
                error.suggest(format!("did you mean `{section}{}`?", path.get(first.len()..).unwrap_or("")))
            }
            None => error.suggest(format!("paths start with one of: axes, {}", SECTIONS.join(", "))),
        });
    }
    let mut holder = Node::new(Value::Table(std::mem::take(root)));
    let outcome = holder.set_path(path, node);
    if let Value::Table(table) = holder.value {
        *root = table;
    }
    outcome.map_err(|prefix| {
        ConfigError::new(path, None, format!("`{prefix}` is not a table, so nothing inside it can be set"))
    })
}

/// Removes axes and conditional values at or inside `path`; an axis over a table around it cannot give way in part.
fn displace_axes(root: &mut Table, path: &str) -> ConfigResult<()> {
    let around = axis_tables(root).flat_map(|axes| &axes.entries).map(|entry| entry.key.clone());
    if let Some(axis) = around.into_iter().find(|axis| axis != path && is_inside(path, axis)) {
        return Err(ConfigError::new(
            path,
            None,
            format!("`{path}` lies inside the values of the axis `{axis}`"),
        )
        .suggest(format!("replace the axis: --set 'axes.{axis}=[…]'")));
    }
    remove_axes(root, path);
    Ok(())
}

/// The `axes` of the study and of its `[[when]]` blocks.
fn axis_tables(root: &Table) -> impl Iterator<Item = &Table> {
    let blocks = match root.get("when").map(|node| &node.value) {
        Some(Value::Array(blocks)) => blocks.as_slice(),
        _ => &[],
    };
    let conditional = blocks.iter().filter_map(|block| block.as_table()?.get("axes"));
    root.get("axes").into_iter().chain(conditional).filter_map(Node::as_table)
}

fn remove_axes(root: &mut Table, path: &str) {
    retain_outside(root, "axes", path);
    remove_from_zip(root, path);
    let Some(Node { value: Value::Array(blocks), .. }) = root.get_mut("when") else { return };
    blocks.retain_mut(|block| {
        let Value::Table(block) = &mut block.value else { return true };
        let changes = |block: &Table| {
            ["axes", "set"].iter().any(|key| {
                block.get(key).and_then(Node::as_table).is_some_and(|table| !table.entries.is_empty())
            })
        };
        let changed_before = changes(block);
        retain_outside(block, "axes", path);
        retain_outside(block, "set", path);
        remove_from_zip(block, path);
        // A block that has nothing left to change goes; one that never had is reported when it is read.
        !changed_before || changes(block)
    });
}

fn retain_outside(table: &mut Table, key: &str, path: &str) {
    if let Some(Node { value: Value::Table(inner), .. }) = table.get_mut(key) {
        inner.entries.retain(|entry| !is_inside(&entry.key, path));
    }
}

fn remove_from_zip(table: &mut Table, path: &str) {
    let Some(Node { value: Value::Array(lists), .. }) = table.get_mut("zip") else { return };
    for list in lists {
        if let Value::Array(members) = &mut list.value {
            members.retain(|member| !matches!(&member.value, Value::Text(axis) if is_inside(axis, path)));
        }
    }
}
