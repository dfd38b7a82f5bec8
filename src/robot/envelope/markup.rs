//! What a file of markup is, found in one pass and without recursion: parsers of XML recurse once per level, and a file may
//! have more levels than a stack.

/// What was found of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey<'a> {
    /// The name of the first element; `None` if there is no element.
    pub(super) root: Option<&'a str>,
    /// The first element that xacro would replace.
    pub(super) xacro: Option<&'a str>,
    /// How many elements lie within each other at most.
    pub(super) depth: usize,
}

impl<'a> Survey<'a> {
    /// Looks at the elements of `text`. What is not well-formed is left to the parser, and deeper than it is if anything.
    pub(super) fn of(text: &'a str) -> Self {
        let mut survey = Self::default();
        let mut depth = 0_usize;
        let mut rest = text;
        while let Some((_, tag)) = rest.split_once('<') {
            rest = match tag.as_bytes().first() {
                Some(b'!') if tag.starts_with("!--") => after(tag.get(3..).unwrap_or_default(), "-->"),
                Some(b'!') if tag.starts_with("![CDATA[") => after(tag, "]]>"),
                Some(b'!') => after(tag, ">"),
                Some(b'?') => after(tag, "?>"),
                Some(b'/') => {
                    depth = depth.saturating_sub(1);
                    after(tag, ">")
                }
                _ => {
                    let (inside, rest) = element(tag);
                    depth = depth.saturating_add(1);
                    survey.note(inside, depth);
                    if inside.ends_with('/') {
                        depth = depth.saturating_sub(1);
                    }
                    rest
                }
            };
        }
        survey
    }

    fn note(&mut self, inside: &'a str, depth: usize) {
        let end = inside.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(inside.len());
        let name = inside.get(..end).unwrap_or_default();
        self.root = self.root.or(Some(name));
        self.xacro = self.xacro.or(Some(name).filter(|name| name.starts_with("xacro:")));
        self.depth = self.depth.max(depth);
    }
}

/// What follows the first `end`; nothing if there is none.
fn after<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// The inside of an element's tag, up to a `>` outside of quotes, and what follows the tag.
fn element(tag: &str) -> (&str, &str) {
    let mut quote = None;
    for (index, byte) in tag.bytes().enumerate() {
        match (byte, quote) {
            (b'>', None) => return (tag.get(..index).unwrap_or_default(), tag.get(index + 1..).unwrap_or_default()),
            (b'"' | b'\'', None) => quote = Some(byte),
            _ if quote == Some(byte) => quote = None,
            _ => {}
        }
    }
    (tag, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_counted_and_comments_and_quotes_are_not() {
        let text =
            "<?xml version='1.0'?>\n<!-- <xacro:a> <b> -->\n<robot name='>/>'><link name=\"a\"/><a><b/></a></robot>";
        assert_eq!(Survey::of(text), Survey { root: Some("robot"), xacro: None, depth: 3 });
    }

    #[test]
    fn elements_of_xacro_are_found_and_its_name_space_alone_is_none() {
        let text = "<robot xmlns:xacro='http://www.ros.org/wiki/xacro'><xacro:include filename='a'/></robot>";
        assert_eq!(Survey::of(text).xacro, Some("xacro:include"));
        assert_eq!(Survey::of("<robot xmlns:xacro='http://www.ros.org/wiki/xacro'/>").xacro, None);
    }

    #[test]
    fn what_never_ends_ends() {
        for text in ["<", "<!--", "<![CDATA[", "<?", "</", "<a b='", "<!", "text", ""] {
            assert!(Survey::of(text).depth <= 1, "{text}");
        }
        assert_eq!(Survey::of(&"<a>".repeat(1000)).depth, 1000);
    }
}
