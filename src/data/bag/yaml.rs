//! YAML as a tree, for metadata.yaml: bounded in depth, every scalar as text.

use saphyr_parser::{Event, Parser};

/// The deepest nesting that is followed; metadata.yaml has six levels.
const DEEPEST: usize = 32;

/// A value of a YAML file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads the first document of `text`.
    ///
    /// # Errors
    /// The line of the first thing that is no YAML, is nested too deeply or refers to another place.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut parser = Parser::new_from_str(text);
        loop {
            match next(&mut parser)? {
                Event::StreamEnd => return Err("empty".to_owned()),
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                event => return value(&mut parser, event, 0),
            }
        }
    }

    /// The value below `key` of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// A scalar's text; `None` for lists, mappings and the ways to write null.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Node::Text(text) if !matches!(text.as_str(), "" | "~" | "null") => Some(text),
            _ => None,
        }
    }

    /// A scalar that is a number.
    pub(super) fn number<T: std::str::FromStr>(&self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// The items of a list; none for anything else.
    pub(super) fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            _ => &[],
        }
    }

    /// The value as YAML in block style, indented by `indent` spaces; how recorders write QoS profiles as text.
    pub(super) fn write(&self, indent: usize, into: &mut String) {
        let margin = " ".repeat(indent);
        match self {
            Node::Text(text) => into.push_str(&format!("{margin}{text}\n")),
            Node::List(items) => {
                for item in items {
                    let start = into.len();
                    item.write(indent + 2, into);
                    let dash = start + indent;
                    if into.is_char_boundary(dash) && into.get(dash..dash + 2) == Some("  ") {
                        into.replace_range(dash..dash + 2, "- ");
                    }
                }
            }
            Node::Map(entries) => {
                for (key, value) in entries {
                    match value {
                        Node::Text(text) => into.push_str(&format!("{margin}{key}: {text}\n")),
                        nested => {
                            into.push_str(&format!("{margin}{key}:\n"));
                            nested.write(indent + 2, into);
                        }
                    }
                }
            }
        }
    }
}

fn next<'text>(parser: &mut Parser<'text, saphyr_parser::StrInput<'text>>) -> Result<Event<'text>, String> {
    match parser.next() {
        Some(Ok((event, _))) => Ok(event),
        Some(Err(error)) => Err(format!("not YAML: line {}: {}", error.marker().line(), error.info())),
        None => Ok(Event::StreamEnd),
    }
}

fn value<'text>(
    parser: &mut Parser<'text, saphyr_parser::StrInput<'text>>,
    event: Event<'text>,
    depth: usize,
) -> Result<Node, String> {
    if depth > DEEPEST {
        return Err("nested too deeply".to_owned());
    }
    match event {
        Event::Scalar(text, ..) => Ok(Node::Text(text.into_owned())),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(parser)? {
                    Event::SequenceEnd => return Ok(Node::List(items)),
                    event => items.push(value(parser, event, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                match next(parser)? {
                    Event::MappingEnd => return Ok(Node::Map(entries)),
                    Event::Scalar(key, ..) => {
                        let event = next(parser)?;
                        entries.push((key.into_owned(), value(parser, event, depth + 1)?));
                    }
                    _ => return Err("a key that is no text".to_owned()),
                }
            }
        }
        Event::Alias(_) => Err("refers to another place (`*name`), which is not followed".to_owned()),
        _ => Err("ends in the middle of a value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_mappings_is_written_as_it_was_read() {
        let text =
            "- history: keep_last\n  depth: 5\n  deadline:\n    sec: 1\n    nsec: 2\n- history: keep_all\n  depth: 0\n";
        let mut written = String::new();
        Node::read(text).unwrap().write(0, &mut written);
        assert_eq!(written, text);
    }

    #[test]
    fn nesting_without_end_and_references_are_refused() {
        assert!(Node::read(&"[".repeat(100_000)).is_err());
        assert!(Node::read("a: &x 1\nb: *x\n").unwrap_err().contains("*name"));
    }
}
