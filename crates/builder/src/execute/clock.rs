//! What time a build says it is.

use jiff::Timestamp;
use rbuild_layers::Time;

/// The time of files that nothing else gives a time, a fixed one or the clock's, and of configs when it is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    epoch: Option<i64>,
}

impl Clock {
    /// Stands still at `SOURCE_DATE_EPOCH`, or runs.
    pub(crate) fn new(epoch: Option<i64>) -> Self {
        Self { epoch }
    }

    /// `SOURCE_DATE_EPOCH`, when it is set.
    pub(crate) fn epoch(self) -> Option<i64> {
        self.epoch
    }

    /// `SOURCE_DATE_EPOCH` as RFC 3339, when it is set.
    pub(crate) fn epoch_text(self) -> Option<String> {
        self.epoch.map(|_| self.timestamp().to_string())
    }

    /// The time it is, whatever `SOURCE_DATE_EPOCH` says, as RFC 3339.
    pub(crate) fn now() -> String {
        Timestamp::now().to_string()
    }

    /// The time as a file has it.
    pub(crate) fn time(self) -> Time {
        let now = self.timestamp();
        let nanos = now.subsec_nanosecond();
        let (seconds, nanos) =
            if nanos < 0 { (now.as_second() - 1, nanos + 1_000_000_000) } else { (now.as_second(), nanos) };
        Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) }
    }

    fn timestamp(self) -> Timestamp {
        self.epoch.map_or_else(Timestamp::now, |epoch| {
            Timestamp::from_second(epoch).unwrap_or(Timestamp::UNIX_EPOCH)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still() {
        let clock = Clock::new(Some(1_700_000_000));
        assert_eq!(clock.epoch_text().as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(Clock::new(None).epoch_text(), None);
        assert_eq!(clock.time(), Time::seconds(1_700_000_000));
    }
}
