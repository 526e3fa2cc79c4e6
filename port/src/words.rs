//! VLANs and rates, as they are written on a command line, in a configuration and in rules.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The VLANs that a frame can be in (IEEE 802.1Q, table 9-2): 0 is none, and 4095 is reserved.
const VLANS: RangeInclusive<u16> = 1..=4094;

/// The VLANs of a port: `10`, `10:20-30` or `10:20+30-39`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlans {
    /// The one that frames without a tag are in, in both directions.
    pub untagged: u16,
    /// Those whose frames have their tag, in both directions: sorted, and none of them the other.
    pub tagged: Vec<RangeInclusive<u16>>,
    /// Whether these tags are service tags, as on a bridge of 802.1ad (IFLA_BR_VLAN_PROTOCOL). That is not written.
    pub are_service_tags: bool,
}

impl Vlans {
    /// One without a tag and no others.
    pub fn untagged(untagged: u16) -> Self {
        Self { untagged, tagged: Vec::new(), are_service_tags: false }
    }
}

impl Vlans {
    /// The EtherType of the tags that its port may send, if it may send any.
    pub(crate) fn tags(&self) -> Option<u16> {
        let kind = if self.are_service_tags { 0x88a8 } else { 0x8100 };
        (!self.tagged.is_empty()).then_some(kind)
    }
}

impl FromStr for Vlans {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (untagged, tagged) = match text.split_once(':') {
            Some((untagged, tagged)) => (untagged, Some(tagged)),
            None => (text, None),
        };
        let untagged = vlan(untagged)?;
        let mut ranges = Vec::new();
        for range in tagged.iter().flat_map(|tagged| tagged.split('+')) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let range = vlan(first)?..=vlan(last)?;
            if range.is_empty() || range.contains(&untagged) {
                return Err(());
            }
            ranges.push(range);
        }
        ranges.sort_by_key(|range| *range.start());
        if ranges.windows(2).any(|pair| pair[0].end() >= pair[1].start()) {
            return Err(());
        }
        Ok(Self { untagged, tagged: ranges, are_service_tags: false })
    }
}

/// A number without a sign or zeros before it.
fn vlan(text: &str) -> Result<u16, ()> {
    let number: u16 = text.parse().map_err(|_| ())?;
    if VLANS.contains(&number) && number.to_string() == text { Ok(number) } else { Err(()) }
}

impl fmt::Display for Vlans {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.untagged)?;
        write_tagged(out, &self.tagged)
    }
}

/// Writes what stands behind the first VLAN: nothing, or `:20-30+40`.
pub fn write_tagged(out: &mut fmt::Formatter<'_>, ranges: &[RangeInclusive<u16>]) -> fmt::Result {
    for (range, before) in ranges.iter().zip(std::iter::once(':').chain(std::iter::repeat('+'))) {
        match range.start() == range.end() {
            true => write!(out, "{before}{}", range.start())?,
            false => write!(out, "{before}{}-{}", range.start(), range.end())?,
        }
    }
    Ok(())
}

/// How fast a port is, as `tc` writes it: `100mbit`, `1gbit`, `512kbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// Bytes a second.
    pub bytes: u64,
}

const UNITS: [(&str, u64); 4] = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

impl Rate {
    /// Below this no connection is kept up; above that the kernel's counters of bursts would overflow.
    const BYTES: RangeInclusive<u64> = 1_000..=12_500_000_000;

    /// So many bytes may come at once: what comes in 20 ms, and at the least two of the largest frames that a guest hands over (64 KiB
    /// with its segments undone), without which none would ever pass.
    pub fn burst(self) -> u32 {
        self.within(50)
    }

    /// The same of what a guest sends, which is dropped and not kept waiting: TCP slows down at each drop, and catches up with what it
    /// may send at once, which is what comes in half a second.
    pub fn burst_of_guest(self) -> u32 {
        self.within(2)
    }

    /// What comes in such a part of a second, or two of the largest frames.
    fn within(self, part: u64) -> u32 {
        const LEAST: u64 = 2 * 66_000;
        (self.bytes / part).max(LEAST).min(u32::MAX.into()) as u32
    }
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let unit = UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
        let (number, bits) = unit.ok_or(())?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| is_number).ok_or(())?;
        let bytes = number.checked_mul(*bits).ok_or(())? / 8;
        if Self::BYTES.contains(&bytes) { Ok(Self { bytes }) } else { Err(()) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes * 8;
        let (unit, size) = UNITS.iter().find(|(_, size)| bits % size == 0).unwrap_or(&("bit", 1));
        write!(out, "{}{unit}", bits / size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_read_as_they_are_written() {
        for text in ["1", "10", "4094", "10:20", "10:20-30", "10:20+30-39+50", "10:1-9+11-4094"] {
            assert_eq!(text.parse::<Vlans>().map(|vlans| vlans.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("10:30+20".parse::<Vlans>().unwrap().to_string(), "10:20+30");
        for bad in [
            "",
            "0",
            "4095",
            "010",
            "+1",
            "-1",
            "a",
            "10:",
            "10:20-",
            "10:-20",
            "10:30-20",
            "10:10",
            "10:5-15",
            "10:20+20",
            "10:20-30+25",
            "10:20:30",
            "10,20",
            "10 ",
            "65546",
            "10:0",
        ] {
            assert_eq!(bad.parse::<Vlans>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        for (text, bytes) in
            [("100mbit", 12_500_000), ("1gbit", 125_000_000), ("8kbit", 1000), ("12345kbit", 1_543_125)]
        {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bytes, rate.to_string().as_str()), (bytes, text));
        }
        assert_eq!("1000mbit".parse::<Rate>().unwrap().to_string(), "1gbit");
        for bad in [
            "",
            "100",
            "mbit",
            "0mbit",
            "7kbit",
            "-1mbit",
            "+1mbit",
            "1.5mbit",
            "1 mbit",
            "101gbit",
            "1tbit",
            "99999999999999999999bit",
        ] {
            assert_eq!(bad.parse::<Rate>(), Err(()), "{bad}");
        }
    }
}
