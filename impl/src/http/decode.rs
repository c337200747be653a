//! Bodies of JSON as Go's decoder reads them: names without regard to case, unknown ones refused, and its own words for
//! what is wrong (rule H13).

use serde_json::{Map, Value};

use super::respond::{Failure, Refusal, Reply};

/// The largest body that is taken in.
pub(crate) const BODY_LIMIT: u64 = 1 << 20;

/// What is wrong with a body, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(String);

impl Fault {
    /// Something else that is wrong.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The answer of most endpoints.
    pub(crate) fn refusal(self) -> Refusal {
        Reply::bad_request(format!("Request decode failed: {}", self.0))
    }

    /// What is wrong.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// An object whose fields are taken out one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Object {
    /// The type that Consul reads it into.
    kind: &'static str,
    /// Where it stands in the whole.
    path: String,
    fields: Map<String, Value>,
}

impl Object {
    /// Reads a body. What follows the first value isn't looked at.
    pub(crate) fn read(kind: &'static str, body: &[u8]) -> Result<Self, Fault> {
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
        match values.next() {
            None => Err(Fault::new("EOF")),
            Some(Ok(Value::Object(fields))) => Ok(Self { kind, path: String::new(), fields }),
            Some(Ok(Value::Null)) => Ok(Self { kind, path: String::new(), fields: Map::new() }),
            Some(Ok(other)) => Err(Fault::new(format!(
                "json: cannot unmarshal {} into Go value of type {kind}",
                kind_of(&other)
            ))),
            Some(Err(error)) if error.is_eof() => Err(Fault::new("unexpected EOF")),
            Some(Err(error)) => Err(Fault::new(match offender(body, &error) {
                Some(letter) => {
                    format!("invalid character {letter:?} looking for beginning of value")
                }
                None => "unexpected end of JSON input".to_owned(),
            })),
        }
    }

    /// Takes a field out, whatever it is; `null` is as good as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        let value = self.fields.remove(name).or_else(|| {
            let other = self.fields.keys().find(|other| other.eq_ignore_ascii_case(name))?.clone();
            self.fields.remove(&other)
        })?;
        Some(value).filter(|value| !value.is_null())
    }

    /// A text; empty where there is none.
    pub(crate) fn text(&mut self, name: &str) -> Result<String, Fault> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.mismatch(name, &other, "string")),
        }
    }

    /// A switch; off where there is none.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.mismatch(name, &other, "bool")),
        }
    }

    /// A number without a sign; 0 where there is none.
    pub(crate) fn number(&mut self, name: &str, kind: &str) -> Result<u64, Fault> {
        match self.take(name) {
            None => Ok(0),
            Some(Value::Number(number)) => number
                .as_u64()
                .ok_or_else(|| self.mismatch(name, &format!("number {number}"), kind)),
            Some(other) => Err(self.mismatch(name, &other, kind)),
        }
    }

    /// A number with a fraction; 0 where there is none.
    pub(crate) fn float(&mut self, name: &str) -> Result<f64, Fault> {
        match self.take(name) {
            None => Ok(0.0),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(number),
                None => Err(self.mismatch(name, &value, "float64")),
            },
        }
    }

    /// Texts by name, in order; none where the field is absent.
    pub(crate) fn pairs(&mut self, name: &str) -> Result<Option<Vec<(String, String)>>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => fields
                .into_iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key, text)),
                    Value::Null => Ok((key, String::new())),
                    other => Err(self.mismatch(name, &other, "string")),
                })
                .collect::<Result<_, _>>()
                .map(Some),
            Some(other) => Err(self.mismatch(name, &other, "map[string]string")),
        }
    }

    /// An object within; none where the field is absent.
    pub(crate) fn object(&mut self, name: &str, kind: &'static str) -> Result<Option<Self>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => self.within(name, kind, value).map(Some),
        }
    }

    /// A list of objects; empty where the field is absent.
    pub(crate) fn objects(&mut self, name: &str, kind: &'static str) -> Result<Vec<Self>, Fault> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values
                .into_iter()
                .filter(|value| !value.is_null())
                .map(|value| self.within(name, kind, value))
                .collect(),
            Some(other) => Err(self.mismatch(name, &other, "array")),
        }
    }

    /// Takes fields that are known and say nothing.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            let _ = self.take(name);
        }
    }

    /// Refuses what is left.
    pub(crate) fn done(self) -> Result<(), Fault> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Fault::new(format!("json: unknown field {name:?}"))),
        }
    }

    fn within(&self, name: &str, kind: &'static str, value: Value) -> Result<Self, Fault> {
        match value {
            Value::Object(fields) => Ok(Self { kind, path: self.place(name), fields }),
            other => Err(self.mismatch(name, &other, kind)),
        }
    }

    fn place(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn mismatch(&self, name: &str, found: &impl Found, wanted: &str) -> Fault {
        let (found, kind, place) = (found.found(), self.kind, self.place(name));
        Fault::new(format!(
            "json: cannot unmarshal {found} into Go struct field {kind}.{place} of type {wanted}"
        ))
    }
}

/// What was found in place of what was wanted.
trait Found {
    fn found(&self) -> String;
}

impl Found for Value {
    fn found(&self) -> String {
        kind_of(self).to_owned()
    }
}

impl Found for String {
    fn found(&self) -> String {
        self.clone()
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The letter at which a body stops to be JSON.
fn offender(body: &[u8], error: &serde_json::Error) -> Option<char> {
    let line = body.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    line.get(error.column().checked_sub(1)?).map(|byte| char::from(*byte))
}

/// The body of a request as an object, in Go's words where it is none.
pub(crate) async fn body(incoming: hyper::body::Incoming) -> Result<bytes::Bytes, Refusal> {
    use super::body::{BodyError, read};
    match read(incoming, BODY_LIMIT).await {
        Ok(body) => Ok(body),
        Err(BodyError::TooLarge(length)) => {
            let text =
                format!("Request body({length} bytes) too large, max size: {BODY_LIMIT} bytes.");
            let status = hyper::StatusCode::PAYLOAD_TOO_LARGE;
            Err(Reply::text_with(status, text).closing().into())
        }
        Err(BodyError::Broken(text)) => Err(Failure::internal(text).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &str) -> String {
        match Object::read("structs.RegisterRequest", body.as_bytes()) {
            Ok(_) => String::new(),
            Err(fault) => fault.0,
        }
    }

    #[test]
    fn what_is_no_json_is_refused_in_gos_words() {
        for (body, text) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{", "unexpected EOF"),
            ("{\"a\":", "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("[]", "json: cannot unmarshal array into Go value of type structs.RegisterRequest"),
            ("{} trailing", ""),
            ("null", ""),
        ] {
            assert_eq!(fault(body), text, "{body}");
        }
    }

    #[test]
    fn fields_are_found_in_any_case_and_what_is_unknown_is_named() {
        let mut object =
            Object::read("R", br#"{"node":"a","SKIP":true,"Bogus":1,"None":null}"#).unwrap();
        assert_eq!(object.text("Node").unwrap(), "a");
        assert!(object.flag("Skip").unwrap());
        assert_eq!(object.text("None").unwrap(), "");
        assert_eq!(object.done().unwrap_err().0, "json: unknown field \"Bogus\"");
    }

    #[test]
    fn a_value_of_another_type_is_named_with_its_place() {
        let mut object = Object::read("R", br#"{"Service":{"Port":"80"},"Meta":{"a":1}}"#).unwrap();
        let mut service = object.object("Service", "NodeService").unwrap().unwrap();
        assert_eq!(
            service.number("Port", "int").unwrap_err().0,
            "json: cannot unmarshal string into Go struct field NodeService.Service.Port of type int"
        );
        assert!(object.pairs("Meta").unwrap_err().0.ends_with("R.Meta of type string"));
    }
}
