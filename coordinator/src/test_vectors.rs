//! The sample values shared by all programs' tests.

use serde_json::Value;

pub(crate) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../common/tests/vectors.json")).unwrap()
}
