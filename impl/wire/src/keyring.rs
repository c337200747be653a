//! The keys of a pool (Serf's keyring): the first is the primary, which encrypts; any of them decrypts. A key is
//! replaced by installing another everywhere, then using it everywhere, then removing the old one.
//!
//! The file is Serf's: a JSON array of the keys in base64, the primary first. Reading and writing files is the
//! agent's; here are the file's contents.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{cipher::Key, limits};

/// Why a keyring is not as wished. The texts are those of Serf's key queries, which operators see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key must have 16, 24 or 32 bytes.
    #[error("key size must be 16, 24 or 32 bytes")]
    Size,
    /// A key isn't base64.
    #[error("a key is not valid base64")]
    Base64,
    /// The file isn't a JSON array of texts.
    #[error("the keyring is not a JSON array of keys")]
    Json,
    /// The file has no keys: it would turn encryption off without anybody having asked for that.
    #[error("the keyring contains no keys")]
    Empty,
    /// The key isn't on the ring.
    #[error("Requested key is not in the keyring")]
    Missing,
    /// The primary key can't be removed.
    #[error("Removing the primary key is not allowed")]
    Primary,
    /// There are [`limits::KEYS`] keys.
    #[error("the keyring is full")]
    Full,
}

/// The keys of a pool, the primary first. With none, nothing is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// The key that this text means, in base64.
pub fn parse_key(text: &str) -> Result<Key, KeyError> {
    let bytes = STANDARD.decode(text).map_err(|_| KeyError::Base64)?;
    Key::new(&bytes).ok_or(KeyError::Size)
}

/// A key as text, in base64.
pub fn format_key(key: &Key) -> String {
    STANDARD.encode(key.as_bytes())
}

impl Keyring {
    /// A keyring of these keys, the primary first; repeated ones count once.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, KeyError> {
        let mut ring = Self::default();
        for bytes in keys {
            ring.install(bytes)?;
        }
        Ok(ring)
    }

    /// Its keys, the primary first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key that encrypts; none where nothing is encrypted.
    pub fn primary(&self) -> Option<&Key> {
        self.keys.first()
    }

    /// Adds a key with which to decrypt. The first one becomes the primary. A key that is there already stays.
    pub fn install(&mut self, bytes: &[u8]) -> Result<(), KeyError> {
        let key = Key::new(bytes).ok_or(KeyError::Size)?;
        if self.keys.contains(&key) {
            return Ok(());
        }
        if self.keys.len() >= limits::KEYS {
            return Err(KeyError::Full);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Makes a key that is there the primary.
    pub fn use_key(&mut self, bytes: &[u8]) -> Result<(), KeyError> {
        let at = self.position(bytes).ok_or(KeyError::Missing)?;
        let key = self.keys.remove(at);
        self.keys.insert(0, key);
        Ok(())
    }

    /// Removes a key that isn't the primary. One that isn't there is as good as removed.
    pub fn remove(&mut self, bytes: &[u8]) -> Result<(), KeyError> {
        match self.position(bytes) {
            Some(0) => Err(KeyError::Primary),
            Some(at) => {
                self.keys.remove(at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn position(&self, bytes: &[u8]) -> Option<usize> {
        self.keys.iter().position(|key| key.as_bytes() == bytes)
    }

    /// Reads the contents of a keyring file.
    pub fn from_json(text: &str) -> Result<Self, KeyError> {
        let texts: Vec<String> = serde_json::from_str(text).map_err(|_| KeyError::Json)?;
        let keys = texts.iter().map(|text| STANDARD.decode(text).map_err(|_| KeyError::Base64));
        let keys: Vec<Vec<u8>> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Self::new(keys.iter().map(Vec::as_slice))
    }

    /// The contents of a keyring file, as Serf writes it.
    pub fn to_json(&self) -> String {
        // base64 has no character that JSON would escape.
        let texts: Vec<String> =
            self.keys.iter().map(|key| format!("  \"{}\"", format_key(key))).collect();
        if texts.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", texts.join(",\n")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_installed_then_used_then_the_old_one_removed() {
        let mut ring = Keyring::new([&[1; 32][..]]).unwrap();
        ring.install(&[2; 16]).unwrap();
        ring.install(&[2; 16]).unwrap();
        assert_eq!(ring.keys().len(), 2);
        assert_eq!(ring.primary().unwrap().as_bytes(), [1; 32]);
        assert_eq!(ring.remove(&[1; 32]), Err(KeyError::Primary));
        assert_eq!(ring.use_key(&[3; 16]), Err(KeyError::Missing));
        ring.use_key(&[2; 16]).unwrap();
        ring.remove(&[1; 32]).unwrap();
        assert_eq!(ring.keys(), [Key::new(&[2; 16]).unwrap()]);
        assert_eq!(ring.install(&[2; 17]), Err(KeyError::Size));
    }

    #[test]
    fn a_file_as_serf_writes_it_comes_back_to_the_same_bytes() {
        let text = "[\n  \"ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=\",\n  \"AAECAwQFBgcICQoLDA0ODw==\"\n]";
        let ring = Keyring::from_json(text).unwrap();
        assert_eq!(ring.primary().unwrap().as_bytes()[..3], [100, 101, 102]);
        assert_eq!(ring.to_json(), text);
        assert_eq!(Keyring::from_json("[\"AAECAwQFBgcICQoLDA0ODw==\"]").unwrap().keys().len(), 1);
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        assert_eq!(Keyring::from_json("[]"), Err(KeyError::Empty));
        assert_eq!(Keyring::from_json("{}"), Err(KeyError::Json));
        assert_eq!(Keyring::from_json("[\"?\"]"), Err(KeyError::Base64));
        assert_eq!(Keyring::from_json("[\"AAAA\"]"), Err(KeyError::Size));
    }

    #[test]
    fn a_keyring_does_not_show_its_keys() {
        let ring = Keyring::new([&[1; 32][..]]).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring { keys: [Key(32 bytes)] }");
    }
}
