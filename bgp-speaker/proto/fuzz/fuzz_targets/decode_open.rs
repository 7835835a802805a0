//! Decodes an OPEN. The result is stable: it encodes to an OPEN that decodes to the same value.
#![no_main]

use bgp_proto::types::Family;
use bgp_proto::wire::{MAX_LEN, Open};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let open = match Open::decode(data) {
        Ok(open) => open,
        Err(error) => {
            assert!(matches!(error.notification().code, 1 | 2));
            return;
        }
    };
    for family in Family::ALL {
        let _ = (open.add_path(family), open.long_lived(family));
    }
    let _ = (open.families(), open.extended_next_hop(), open.host_name());
    // A host name that is not UTF-8 grows when it is repaired; afterwards nothing changes any more.
    let bytes = open.encode();
    assert!(bytes.len() <= MAX_LEN);
    let stable = Open::decode(&bytes[19..]).unwrap();
    assert_eq!(Open::decode(&stable.encode()[19..]).unwrap(), stable);
});
