//! What the holder of a token may do.

/// A token's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes trials and reports on them: the whole agent service, nothing else.
    Agent,
    /// Submits and changes sweeps, and reads everything.
    Submit,
    /// Reads everything, changes nothing.
    Read,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Agent, Role::Submit, Role::Read];

    /// Its name on command lines and in files.
    pub fn name(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Submit => "submit",
            Role::Read => "read",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether a token of this role may do what needs `needed`.
    pub fn includes(self, needed: Role) -> bool {
        self == needed || (self == Role::Submit && needed == Role::Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submit_includes_read_and_nothing_else_includes_another() {
        for holder in Role::ALL {
            assert_eq!(Role::parse(holder.name()), Some(holder));
            for needed in Role::ALL {
                let expected = holder == needed || (holder, needed) == (Role::Submit, Role::Read);
                assert_eq!(holder.includes(needed), expected, "{holder:?} {needed:?}");
            }
        }
        assert_eq!(Role::parse("admin"), None);
    }
}
