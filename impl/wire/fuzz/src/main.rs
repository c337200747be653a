//! The fuzzer, with `--cfg fuzzing`: libFuzzer on the target that `FUZZ_TARGET` names, or what writes the seeds of all
//! targets into the folder that `FUZZ_SEEDS` names. Otherwise a program that runs a target on files: on those that once
//! broke it.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzzing {
    use std::{path::Path, process::exit, sync::LazyLock};

    use gossip_fuzz::{Target, find, seeds};

    static TARGET: LazyLock<&Target> = LazyLock::new(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        find(&name).unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}"))
    });

    fn write_seeds(folder: &Path) -> ! {
        match seeds::write(folder) {
            Ok(names) => names.iter().for_each(|name| println!("{name}")),
            Err(error) => {
                eprintln!("{}: {error}", folder.display());
                exit(1);
            }
        }
        exit(0)
    }

    libfuzzer_sys::fuzz_target!(
        init: {
            if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
                write_seeds(Path::new(&folder));
            }
        },
        |bytes: &[u8]| {
            (TARGET.run)(bytes);
        }
    );
}

#[cfg(not(fuzzing))]
fn main() -> anyhow::Result<()> {
    use anyhow::{Context as _, bail};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, files @ ..] = arguments.as_slice() else { bail!("gossip-fuzz TARGET FILE...") };
    let target = gossip_fuzz::find(name).with_context(|| format!("no target is named {name}"))?;
    for file in files {
        let bytes = std::fs::read(file).with_context(|| format!("can't read {file}"))?;
        let taken = if (target.run)(&bytes) { "taken" } else { "refused" };
        println!("{file}: {} bytes, {taken}", bytes.len());
    }
    Ok(())
}
