//! Found bugs, each under the name of what it broke. A shrunk failure prints a line for here.

use crate::{check, scenario::Scenario};

#[test]
fn nothing_goes_wrong_when_nothing_is_broken() {
    check(Scenario::shrunk(1, 560, &[]));
}
