//! One OPEN. What was decoded is stable: encoding it gives an OPEN that decodes to the same.
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
    // A host name that is no UTF-8 grows while it is repaired; after that nothing changes any more.
    let bytes = open.encode();
    assert!(bytes.len() <= MAX_LEN);
    let stable = Open::decode(&bytes[19..]).unwrap();
    assert_eq!(Open::decode(&stable.encode()[19..]).unwrap(), stable);
});
