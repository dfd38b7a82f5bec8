//! Things that are made once for what they are made of, and kept while they are in use.

/// The things that were used last.
#[derive(Clone, Debug)]
pub struct Recent<T> {
    latest: Option<T>,
    /// Those before it, the last used first.
    others: Vec<T>,
    capacity: usize,
}

impl<T> Recent<T> {
    /// Keeps at most `capacity` things (at least one).
    pub fn new(capacity: usize) -> Self {
        Self { latest: None, others: Vec::new(), capacity: capacity.max(1) }
    }

    /// The thing of which `is_it` holds, or the one that `make` returns, which then takes the place of the one that was not
    /// used for longest. What the last `capacity` calls gave is still kept.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get_or_make<E>(
        &mut self,
        is_it: impl Fn(&T) -> bool,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<&mut T, E> {
        if let Some(latest) = self.latest.take() {
            self.others.insert(0, latest);
        }
        let it = match self.others.iter().position(is_it) {
            Some(place) => self.others.remove(place),
            None => make()?,
        };
        self.others.truncate(self.capacity - 1);
        Ok(self.latest.insert(it))
    }

    /// The kept thing of which `is_it` holds.
    pub fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        self.latest.iter().chain(&self.others).find(|kept| is_it(kept))
    }

    /// Keeps at least so many from now on.
    pub fn hold(&mut self, capacity: usize) {
        self.capacity = self.capacity.max(capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for each number, and returns those that had to be made.
    fn made(recent: &mut Recent<u32>, asked: &[u32]) -> Vec<u32> {
        let mut made = Vec::new();
        for number in asked {
            let make = || {
                made.push(*number);
                Ok::<_, ()>(*number)
            };
            assert_eq!(recent.get_or_make(|kept| kept == number, make), Ok(&mut number.clone()));
        }
        made
    }

    #[test]
    fn what_is_used_again_and_again_stays_whatever_else_comes() {
        let mut recent = Recent::new(2);
        assert_eq!(made(&mut recent, &[1, 2, 1, 3, 1, 4, 1]), [1, 2, 3, 4]);
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let mut recent = Recent::new(2);
        assert_eq!(made(&mut recent, &[1, 2, 1, 3]), [1, 2, 3]);
        assert_eq!([1, 2, 3].map(|number| recent.find(|kept| *kept == number).is_some()), [true, false, true]);
    }

    #[test]
    fn what_cannot_be_made_changes_nothing() {
        let mut recent = Recent::new(1);
        made(&mut recent, &[1]);
        assert_eq!(recent.get_or_make(|kept| *kept == 2, || Err("no")), Err("no"));
        assert_eq!(recent.find(|kept| *kept == 1), Some(&1));
    }

    #[test]
    fn a_frame_of_more_things_than_are_kept_finds_all_once_they_are_held() {
        let mut recent = Recent::new(2);
        recent.hold(3);
        made(&mut recent, &[9, 8, 1, 2, 3]);
        assert!([1, 2, 3].iter().all(|number| recent.find(|kept| kept == number).is_some()));
    }
}
