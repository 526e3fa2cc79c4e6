//! QEMU's own arguments: do front ends and back ends find each other, and does the kernel do what it is meant to?
#![forbid(unsafe_code)]

use crate::doctor::ikconfig;
use crate::output::errno::reason;
use model::argv::inspect::QemuLine;
use model::check::{self, Check, Topic};
use model::text;
use model::text::shell::quote;
use std::path::Path;

/// `ours` are the ids of the netdevs that `--bridge` makes, each with the model of its card; `folder` is where relative paths
/// begin.
pub(super) fn checks(line: &QemuLine, ours: &[(String, String)], folder: &Path) -> Vec<Check> {
    let mut checks = check::qemu::checks(line, ours);
    checks.extend(kernel(line, &check::qemu::models(line, ours), folder));
    checks
}

fn kernel(line: &QemuLine, models: &[String], folder: &Path) -> Vec<Check> {
    const IMAGE: Topic = Topic("kernel", "QEMU boots this kernel itself.");
    let Some(kernel) = &line.kernel else { return Vec::new() };
    let image = folder.join(kernel);
    // Somebody else may have called it so.
    let (name, kernel, copy) = (text::one_line(kernel), quote(kernel), quote(format!("{kernel}.config")));
    match ikconfig::find(&image) {
        Err(error) => {
            vec![IMAGE.failure(format!("cannot read {name}: {}", reason(&error)), format!("ls -l {kernel}"))]
        }
        Ok(None) => {
            let observed = format!("the configuration of {name} is neither in it nor beside it nor under /boot");
            let fix =
                format!("cp .config {copy}   # in the tree that it was built in; or build it with CONFIG_IKCONFIG=y");
            vec![check::kernel::UNKNOWN.warning(observed, fix)]
        }
        Ok(Some((config, place))) => {
            let place = if place == image { "it".into() } else { place.to_string_lossy() };
            let found = IMAGE.ok(format!("the configuration of {name} is in {}", text::one_line(&place)));
            std::iter::once(found).chain(check::kernel::checks(&config, line, models)).collect()
        }
    }
}
