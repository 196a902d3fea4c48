//! The operations on permits and tokens.

use super::operation::{Answer, Operation};

const TAG: &str = "grants";
const PATH: &str = "/api/circuit/{id}/revocations";

pub(super) const CALLS: &[Operation] = &[
    Operation::new(
        "get",
        PATH,
        TAG,
        Answer::Json("Revocations"),
        "Permits and tokens of a circuit that count no more",
    ),
    Operation::new(
        "post",
        PATH,
        TAG,
        Answer::Json("Revocations"),
        "Revoke one by its name (`jti`) or by itself (`token`), or all given so far (`all`); what \
         they carry ends within a second",
    )
    .body("Revocation")
    .refusals(&[409]),
];
