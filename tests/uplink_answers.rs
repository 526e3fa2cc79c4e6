//! Uplinks that can or can't be bridged, each with its right answer.
