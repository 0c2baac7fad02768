//! The identities of a step, by number.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::io::Errno;

use super::Identity;
use crate::process::User;

/// Interned identities. A number, once given, names the same identity as long as the table lives.
#[derive(Debug)]
pub(crate) struct Table {
    identities: Vec<Arc<Identity>>,
    numbers: HashMap<Arc<Identity>, u64>,
}

impl Table {
    /// The number of the root identity.
    pub(crate) const ROOT: u64 = 0;

    /// Bounds the memory that a step can take here by becoming everybody in turn.
    const LIMIT: usize = 1 << 16;

    /// Makes a table of root and of the identity of `user`, whose number is returned: the same for every table.
    pub(crate) fn starting_as(user: &User) -> (Self, u64) {
        let mut identities = vec![Arc::new(Identity::root()), Arc::new(Identity::of(user))];
        identities.dedup();
        let numbers = identities.iter().cloned().zip(Self::ROOT..).collect::<HashMap<_, _>>();
        let number = if identities.len() > 1 { Self::ROOT + 1 } else { Self::ROOT };
        (Self { identities, numbers }, number)
    }

    /// Returns the identity of a number. What was never given is root: so is a process whose number was lost.
    pub(crate) fn get(&self, number: u64) -> Arc<Identity> {
        let identity = usize::try_from(number).ok().and_then(|index| self.identities.get(index));
        identity.map_or_else(|| Arc::new(Identity::root()), Arc::clone)
    }

    /// Returns the number of an identity, a new one if need be.
    ///
    /// # Errors
    /// EAGAIN when the table is full, which setuid(2) can say as well.
    pub(crate) fn number(&mut self, identity: Identity) -> Result<u64, Errno> {
        if let Some(&number) = self.numbers.get(&identity) {
            return Ok(number);
        }
        if self.identities.len() >= Self::LIMIT {
            return Err(Errno::AGAIN);
        }
        let number = u64::try_from(self.identities.len()).map_err(|_| Errno::AGAIN)?;
        let identity = Arc::new(identity);
        self.identities.push(Arc::clone(&identity));
        self.numbers.insert(identity, number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable() {
        let (mut table, _) = Table::starting_as(&User::default());
        let app = Identity::root().setuid(1000).unwrap();
        assert_eq!(table.number(Identity::root()), Ok(Table::ROOT));
        let number = table.number(app.clone()).unwrap();
        assert_ne!(number, Table::ROOT);
        assert_eq!(table.number(app.clone()), Ok(number));
        assert_eq!(*table.get(number), app);
        assert_eq!(*table.get(u64::MAX), Identity::root());
    }

    #[test]
    fn a_step_starts_as_its_user() {
        let check = |user: User, expect| {
            let (mut table, number) = Table::starting_as(&user);
            assert_eq!(number, expect, "{user:?}");
            assert_eq!(*table.get(number), Identity::of(&user));
            assert_eq!(table.number(Identity::of(&user)), Ok(number));
        };
        check(User::default(), Table::ROOT);
        check(User { groups: vec![5], ..User::default() }, 1);
        check(User { uid: 1000, gid: 1000, groups: vec![] }, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut table, _) = Table::starting_as(&User::default());
        let full = (1..).map_while(|uid| table.number(Identity::root().setuid(uid).unwrap()).ok()).count();
        assert_eq!(full + 1, Table::LIMIT);
        assert_eq!(table.number(Identity::root()), Ok(Table::ROOT));
    }
}
