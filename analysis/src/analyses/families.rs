//! Which cells may be compared: those that differ in one parameter only.

use crate::cells::{Cell, Dataset, describe, human, short_name};

/// Cells that differ in one parameter, in its order.
pub struct Family<'d, 'a> {
    /// What they share of the parameters that vary; empty where nothing else does.
    pub name: String,
    /// The cells.
    pub cells: Vec<&'d Cell<'a>>,
}

/// The cells of a data set, split into families along a parameter.
pub struct Families<'d, 'a> {
    /// The parameter.
    pub along: &'d str,
    /// The families of two cells or more.
    pub families: Vec<Family<'d, 'a>>,
}

impl<'d, 'a> Families<'d, 'a> {
    /// The families along `along`, by default the only parameter that varies. The error says in a sentence why there is
    /// nothing to compare.
    pub fn of(data: &'d Dataset<'a>, along: Option<&'d str>) -> Result<Families<'d, 'a>, String> {
        let along = match (along, data.labels.as_slice()) {
            (Some(along), _) if !data.varies(along) => {
                return Err(format!("Nothing is compared: `{along}` has one value in these trials."));
            }
            (Some(along), _) => along,
            (None, [only]) => only,
            (None, []) => return Err("Nothing is compared: there is one cell.".to_owned()),
            (None, several) => {
                return Err(format!(
                    "Nothing is compared: {} vary. Name the one to compare with `along`.",
                    several.join(", ")
                ));
            }
        };
        let rest = data.labels_without(&[along]);
        let families = data
            .group_by(&rest)
            .into_iter()
            .filter(|group| group.cells.len() > 1)
            .map(|group| Family {
                name: if rest.is_empty() { String::new() } else { describe(&rest, &group.values) },
                cells: group.cells,
            })
            .collect();
        Ok(Families { along, families })
    }

    /// `layers = 6`.
    pub fn value_of(&self, cell: &Cell) -> String {
        format!("{} = {}", short_name(self.along, &[]), human(cell.parameter(self.along)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{counting, grokking};

    #[test]
    fn cells_of_a_family_differ_in_one_parameter() {
        let records = grokking(1);
        let data = Dataset::new(&records, &[]);
        let found = Families::of(&data, None).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!((found.along, found.families.len()), ("train.optimizer.weight-decay", 1));
        assert_eq!(found.value_of(found.families[0].cells[1]), "weight-decay = 1");

        let records = counting(1);
        let data = Dataset::new(&records, &[]);
        let problem = Families::of(&data, None).map(|_| ()).unwrap_err();
        assert!(problem.contains("model.dim, task.vocab vary"), "{problem}");
        let found = Families::of(&data, Some("task.vocab")).unwrap_or_else(|problem| panic!("{problem}"));
        let names: Vec<(&str, usize)> =
            found.families.iter().map(|family| (family.name.as_str(), family.cells.len())).collect();
        assert_eq!(names, [("dim = 8", 8), ("dim = 16", 8), ("dim = 32", 8)]);
        assert!(Families::of(&data, Some("model.layers")).is_err());
        assert!(Families::of(&Dataset::new(&[], &[]), None).is_err());
    }
}
