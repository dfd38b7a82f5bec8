//! Reads parameter files (`<node>: ros__parameters: …`) as rcl does: sections by the name of a node, which may be nested
//! below its namespaces, and values by the rules of [`scalar`](super::scalar).

use super::scalar;
use super::value::Value;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use std::borrow::Cow;

/// The key below the name of a node that holds its parameters.
const PARAMETERS: &str = "ros__parameters";
/// The deepest nesting of names, far beyond any real file, so that a hostile one cannot exhaust the stack.
const DEEPEST: usize = 64;

/// The parameters that a file gives to the nodes of one name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    /// The name as the file has it, with namespaces joined by `/`.
    pub(super) node: String,
    /// Dotted names and values, in the order of the file.
    pub(super) parameters: Vec<(String, Value)>,
}

/// The sections of a parameter file, in its order.
///
/// # Errors
/// The line of the first thing that rcl would refuse, with the reason.
pub(super) fn sections(text: &str) -> Result<Vec<Section>, String> {
    let mut sections = Vec::new();
    read(text, "expected `<node>: ros__parameters:`", |reader| reader.nodes("", &mut sections))?;
    Ok(sections)
}

/// The parameters of a file that is a mapping of them, without the name of a node.
///
/// # Errors
/// The line of the first thing that rcl would refuse, with the reason.
pub(super) fn mapping(text: &str) -> Result<Vec<(String, Value)>, String> {
    let mut parameters = Vec::new();
    read(text, "expected parameters by their names", |reader| reader.parameters("", &mut parameters))?;
    Ok(parameters)
}

/// Reads a file whose documents are mappings, each of which `take` reads; anything else is refused as not `expected`.
fn read<'text>(
    text: &'text str,
    expected: &str,
    mut take: impl FnMut(&mut Reader<'text>) -> Result<(), String>,
) -> Result<(), String> {
    // A file that is not YAML is told so, even if something else is wrong further up.
    Parser::new_from_str(text).try_for_each(|event| event.map(drop)).map_err(|error| not_yaml(&error))?;
    let mut reader = Reader { events: Parser::new_from_str(text), depth: 0 };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(()),
            (Event::MappingStart(..), _) => take(&mut reader)?,
            (Event::Scalar(..) | Event::SequenceStart(..), span) => return Err(at(&span, expected)),
            (Event::Alias(_), span) => return Err(no_alias(&span)),
            _ => {}
        }
    }
}

/// The value of an assignment on the command line: one scalar, or a list of them.
///
/// # Errors
/// Why rcl would refuse it.
pub(super) fn value(text: &str) -> Result<Value, String> {
    let mut reader = Reader { events: Parser::new_from_str(text), depth: 0 };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::Scalar(text, style, _, tag), span) => return scalar_value(&text, style, tag.as_deref(), &span),
            (Event::SequenceStart(..), _) => return reader.list(),
            (_, span) => return Err(at(&span, "expected a value or a list of values")),
        }
    }
}

struct Reader<'text> {
    events: Parser<'text, saphyr_parser::StrInput<'text>>,
    depth: usize,
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<(Event<'text>, Span), String> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(not_yaml(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The next key of a mapping, or `None` at its end.
    fn key(&mut self) -> Result<Option<(Cow<'text, str>, Span)>, String> {
        match self.next()? {
            (Event::MappingEnd, _) => Ok(None),
            (Event::Scalar(key, ..), span) if !key.is_empty() => Ok(Some((key, span))),
            (_, span) => Err(at(&span, "expected a name")),
        }
    }

    fn descend(&mut self, span: &Span) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEEPEST { Err(at(span, "names are nested too deeply")) } else { Ok(()) }
    }

    /// Reads a mapping whose keys are names of nodes and namespaces below `namespace`.
    fn nodes(&mut self, namespace: &str, sections: &mut Vec<Section>) -> Result<(), String> {
        while let Some((key, span)) = self.key()? {
            self.descend(&span)?;
            match self.next()? {
                (Event::MappingStart(..), _) if key == PARAMETERS && namespace.is_empty() => {
                    return Err(at(&span, "expected the name of a node before `ros__parameters`"));
                }
                (Event::MappingStart(..), _) if key == PARAMETERS => {
                    let mut parameters = Vec::new();
                    self.parameters("", &mut parameters)?;
                    sections.push(Section { node: namespace.to_owned(), parameters });
                }
                (Event::MappingStart(..), _) => {
                    let below = if namespace.is_empty() { key.into_owned() } else { format!("{namespace}/{key}") };
                    self.nodes(&below, sections)?;
                }
                (Event::Alias(_), span) => return Err(no_alias(&span)),
                (_, span) => return Err(at(&span, &format!("`{key}`: expected `<node>: ros__parameters:`"))),
            }
            self.depth -= 1;
        }
        Ok(())
    }

    /// Reads a mapping of parameters, whose names are preceded by `prefix`.
    fn parameters(&mut self, prefix: &str, into: &mut Vec<(String, Value)>) -> Result<(), String> {
        while let Some((key, span)) = self.key()? {
            self.descend(&span)?;
            let name = if prefix.is_empty() { key.into_owned() } else { format!("{prefix}.{key}") };
            let named = |reason: String| format!("parameter `{name}`: {reason}");
            match self.next()? {
                (Event::MappingStart(..), _) => self.parameters(&name, into)?,
                (Event::Scalar(text, style, _, tag), span) => {
                    let value = scalar_value(&text, style, tag.as_deref(), &span).map_err(named)?;
                    into.push((name, value));
                }
                (Event::SequenceStart(..), _) => {
                    let value = self.list().map_err(named)?;
                    into.push((name, value));
                }
                (Event::Alias(_), span) => return Err(no_alias(&span)),
                (_, span) => return Err(at(&span, &format!("`{name}` has no value"))),
            }
            self.depth -= 1;
        }
        Ok(())
    }

    /// Reads a list up to its end. All its items have one type; an empty list counts as one of texts.
    fn list(&mut self) -> Result<Value, String> {
        let mut list: Option<Value> = None;
        loop {
            let (item, span) = match self.next()? {
                (Event::SequenceEnd, _) => return Ok(list.unwrap_or(Value::Strings(Vec::new()))),
                (Event::Scalar(text, style, _, tag), span) => {
                    (scalar_value(&text, style, tag.as_deref(), &span)?, span)
                }
                (Event::Alias(_), span) => return Err(no_alias(&span)),
                (_, span) => return Err(at(&span, "a list may hold single values only")),
            };
            list = Some(push(list, item).ok_or_else(|| at(&span, "the values of a list must be of one type"))?);
        }
    }
}

/// `list` with `item` at its end; `None` if it has another type.
fn push(list: Option<Value>, item: Value) -> Option<Value> {
    /// Appends to a list of the item's own type.
    fn appended<T>(mut list: Vec<T>, item: T) -> Vec<T> {
        list.push(item);
        list
    }
    Some(match (list, item) {
        (None, Value::Bool(item)) => Value::Bools(vec![item]),
        (None, Value::Integer(item)) => Value::Integers(vec![item]),
        (None, Value::Double(item)) => Value::Doubles(vec![item]),
        (None, Value::String(item)) => Value::Strings(vec![item]),
        (Some(Value::Bools(list)), Value::Bool(item)) => Value::Bools(appended(list, item)),
        (Some(Value::Integers(list)), Value::Integer(item)) => Value::Integers(appended(list, item)),
        (Some(Value::Doubles(list)), Value::Double(item)) => Value::Doubles(appended(list, item)),
        (Some(Value::Strings(list)), Value::String(item)) => Value::Strings(appended(list, item)),
        _ => return None,
    })
}

fn scalar_value(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Value, String> {
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let is_string = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
    match text {
        "" if !quoted => Err(at(span, "has no value")),
        text if quoted || is_string => Ok(Value::String(text.to_owned())),
        text => Ok(scalar::plain(text)),
    }
}

fn not_yaml(error: &ScanError) -> String {
    format!("not YAML: line {}: {}", error.marker().line(), error.info())
}

fn at(span: &Span, reason: &str) -> String {
    format!("line {}: {reason}", span.start.line())
}

fn no_alias(span: &Span) -> String {
    at(span, "ROS 2 takes no aliases (`*name`) in parameter files")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names_of(text: &str) -> Vec<String> {
        sections(text).unwrap().into_iter().map(|section| section.node).collect()
    }

    fn refusal(text: &str) -> String {
        sections(text).unwrap_err()
    }

    /// The value of `a`, which a file gives as `yaml`.
    fn read(yaml: &str) -> Value {
        let sections = sections(&format!("n:\n  ros__parameters:\n    a: {yaml}\n")).unwrap();
        sections[0].parameters[0].1.clone()
    }

    #[test]
    fn sections_are_named_by_node_however_their_namespaces_are_nested() {
        let text = "/**: {ros__parameters: {a: 1}}\nleft: {xvla: {ros__parameters: {a: 2}}, other: {ros__parameters: {a: 3}}}\n\
                    /right/xvla: {ros__parameters: {a: 4}}\n";
        assert_eq!(names_of(text), ["/**", "left/xvla", "left/other", "/right/xvla"]);
    }

    #[test]
    fn names_of_parameters_may_be_nested_or_dotted_and_start_with_a_digit() {
        let sections = sections("n:\n  ros__parameters:\n    a:\n      b.c: 1\n      0: {d: 2}\n").unwrap();
        let names: Vec<_> = sections[0].parameters.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.b.c", "a.0.d"]);
    }

    #[test]
    fn quoted_and_tagged_scalars_are_text() {
        for yaml in ["'yes'", "\"yes\"", "!!str yes"] {
            assert_eq!(read(yaml), Value::String("yes".to_owned()), "{yaml}");
        }
        assert_eq!(read("''"), Value::String(String::new()));
        assert_eq!(read("yes"), Value::Bool(true));
    }

    #[test]
    fn a_list_has_the_type_of_its_items() {
        assert_eq!(read("[a, '1']"), Value::Strings(vec!["a".to_owned(), "1".to_owned()]));
        assert_eq!(read("[1, -2]"), Value::Integers(vec![1, -2]));
        assert_eq!(read("[1.5, 2.0]"), Value::Doubles(vec![1.5, 2.0]));
        assert_eq!(read("[yes, off]"), Value::Bools(vec![true, false]));
        assert_eq!(read("[]"), Value::Strings(vec![]));
    }

    #[test]
    fn a_list_of_several_types_and_a_list_of_lists_are_refused_by_name_and_line() {
        let refusal = |yaml: &str| refusal(&format!("n:\n  ros__parameters:\n    a: {yaml}\n"));
        assert_eq!(refusal("[1, 2.5]"), "parameter `a`: line 3: the values of a list must be of one type");
        assert_eq!(refusal("[[1], [2]]"), "parameter `a`: line 3: a list may hold single values only");
    }

    #[test]
    fn what_rcl_refuses_is_refused_with_its_line() {
        assert_eq!(refusal("a: 1\n"), "line 1: `a`: expected `<node>: ros__parameters:`");
        assert_eq!(
            refusal("ros__parameters: {a: 1}\n"),
            "line 1: expected the name of a node before `ros__parameters`"
        );
        assert_eq!(refusal("n: {ros__parameters: {a: }}\n"), "parameter `a`: line 1: has no value");
        assert!(refusal("n: {ros__parameters: {a: &x 1, b: *x}}\n").contains("no aliases"));
        assert!(refusal("a: [1").starts_with("not YAML: line "));
    }

    #[test]
    fn a_file_without_content_has_no_sections() {
        assert_eq!(sections("# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn a_value_on_the_command_line_is_a_scalar_or_a_list() {
        assert_eq!(value("[front, wrist]"), Ok(Value::Strings(vec!["front".to_owned(), "wrist".to_owned()])));
        assert_eq!(value("0.5"), Ok(Value::Double(0.5)));
        assert_eq!(value("''"), Ok(Value::String(String::new())));
        assert!(value("").is_err() && value("[1, a]").is_err() && value("{a: 1}").is_err());
    }

    #[test]
    fn nesting_without_end_is_refused_instead_of_followed() {
        let deep = format!("{}{}", "{a: ".repeat(100_000), "}".repeat(100_000));
        assert!(sections(&deep).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_a_reason_to_panic(text in "(?s)[\\[\\]{}:,\n &*!'\"#a-z0-9._/-]{0,80}") {
            let _ = (sections(&text), value(&text));
        }

        #[test]
        fn every_text_in_quotes_is_read_back(text in "[^\\p{Cc}\u{feff}\u{2028}\u{2029}\u{85}]{0,20}") {
            prop_assert_eq!(read(&format!("'{}'", text.replace('\'', "''"))), Value::String(text));
        }
    }
}
