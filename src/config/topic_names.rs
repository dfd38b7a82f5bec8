//! Names of topics as rcl resolves them: relative to the node's namespace, then remapped by the first rule that matches.

/// A remapping rule `from:=to` of the command line, possibly for one node only: `node:from:=to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    node: Option<String>,
    from: String,
    to: String,
}

impl Remap {
    /// The rule, if it may apply to topics; `None` for those that name the node, its namespace or a service.
    pub fn of_topic(rule: &str) -> Option<Self> {
        let (left, to) = rule.split_once(":=")?;
        let (node, from) = match left.split_once(':') {
            Some((scheme, rest)) if rest.starts_with("//") => {
                (None, (scheme == "rostopic").then(|| rest.trim_start_matches("//"))?)
            }
            Some((node, from)) => (Some(node.to_owned()), from),
            None => (None, left),
        };
        (!from.starts_with("__")).then(|| Self { node, from: from.to_owned(), to: to.to_owned() })
    }
}

/// A node's name, namespace and remapping rules, which resolve the names of its topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The node's name, without its namespace.
    pub node: String,
    /// Its namespace, with the slash in front: `/` or `/left`.
    pub namespace: String,
    /// The rules, in the order of the command line.
    pub remaps: Vec<Remap>,
}

impl Names {
    /// The node's fully qualified name.
    pub fn node(&self) -> String {
        format!("{}/{}", self.namespace.trim_end_matches('/'), self.node)
    }

    /// The fully qualified name that `topic` has after remapping.
    pub fn resolve(&self, topic: &str) -> String {
        let expanded = self.expand(topic);
        let applies = |rule: &&Remap| {
            rule.node.as_ref().is_none_or(|node| *node == self.node) && self.expand(&rule.from) == expanded
        };
        self.remaps.iter().find(applies).map_or(expanded.clone(), |rule| self.expand(&rule.to))
    }

    fn expand(&self, name: &str) -> String {
        let namespace = self.namespace.trim_end_matches('/');
        match name.strip_prefix('~') {
            Some(rest) => format!("{namespace}/{}{rest}", self.node),
            None if name.starts_with('/') => name.to_owned(),
            None => format!("{namespace}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, rules: &[&str]) -> Names {
        let remaps = rules.iter().filter_map(|rule| Remap::of_topic(rule)).collect();
        Names { node: "xvla".to_owned(), namespace: namespace.to_owned(), remaps }
    }

    #[test]
    fn names_are_relative_to_the_namespace_to_the_node_or_to_nothing() {
        let names = names("/left", &[]);
        assert_eq!(names.resolve("wrist/image"), "/left/wrist/image");
        assert_eq!(names.resolve("~/command"), "/left/xvla/command");
        assert_eq!(names.resolve("/tf"), "/tf");
        assert_eq!(self::names("/", &[]).resolve("wrist/image"), "/wrist/image");
    }

    #[test]
    fn the_first_rule_that_matches_applies_and_both_its_sides_are_relative() {
        let names = names("/left", &["wrist/image:=/cam/color", "/left/wrist/image:=other", "/left/gripper:=hand"]);
        assert_eq!(names.resolve("wrist/image"), "/cam/color");
        assert_eq!(names.resolve("gripper"), "/left/hand");
        assert_eq!(names.resolve("instruction"), "/left/instruction");
    }

    #[test]
    fn rules_for_other_nodes_services_and_the_nodes_own_name_do_not_apply() {
        let rules = ["other:a:=b", "rosservice://a:=c", "__ns:=/right", "xvla:__node:=policy", "rostopic://a:=d"];
        assert_eq!(names("/", &rules).resolve("a"), "/d");
        assert_eq!(names("/", &["xvla:a:=e"]).resolve("a"), "/e");
    }
}
