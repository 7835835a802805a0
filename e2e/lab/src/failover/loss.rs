//! Lost packets of streams in one direction, and the duration of the loss.

use std::ops::Range;

use crate::flow::Outcome;

/// Streams in one direction, each with a source port of its own.
pub(super) const STREAMS: usize = 32;
/// Packets per second of all of them.
pub const RATE: u32 = 2000;

/// What was lost of a part of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Loss {
    /// Packets.
    pub packets: u64,
    /// How long the stream that was silent longest was silent, in seconds.
    pub longest: f64,
}

impl Loss {
    /// Both directions together.
    pub fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            longest: self.longest.max(other.longest),
        }
    }

    /// Of the packets with these numbers.
    pub(super) fn of(outcome: &Outcome, part: Range<u64>) -> Self {
        let lost = outcome.lost.iter().filter(|number| part.contains(number));
        let (mut packets, mut longest) = (0, 0);
        // Of each stream the last lost number, and how many before it were lost without one between.
        let mut runs = [(0u64, 0u64); STREAMS];
        for number in lost {
            packets += 1;
            let (last, run) = &mut runs[*number as usize % STREAMS];
            let goes_on = *run > 0 && *last + STREAMS as u64 == *number;
            (*last, *run) = (*number, if goes_on { *run + 1 } else { 1 });
            longest = longest.max(*run);
        }
        Self {
            packets,
            longest: (longest * STREAMS as u64) as f64 / f64::from(RATE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_by_stream() {
        let streams = STREAMS as u64;
        // Stream 3 three times in a row, stream 4 twice with one between.
        let mut lost = vec![3, 4, 3 + streams, 3 + 2 * streams, 4 + 2 * streams];
        lost.extend(1000..1010);
        let outcome = Outcome { sent: 1010, lost };
        let all = Loss::of(&outcome, 0..1000);
        assert_eq!(all.packets, 5);
        assert!((all.longest - (3 * streams) as f64 / f64::from(RATE)).abs() < 1e-9);
        assert_eq!(Loss::of(&outcome, 500..1000), Loss::default());
        assert_eq!(Loss::of(&outcome, 990..1010).packets, 10);
    }
}
