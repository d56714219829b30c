//! Chat templates against transformers' `apply_chat_template` (`fixtures/chat/make_chats.py`).

use corpus::{ChatTemplate, CorpusError, GenerationPrompt, Message};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

fn template(source: &str) -> corpus::Result<ChatTemplate> {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let tokens: BTreeMap<String, String> = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
    ChatTemplate::new(source, tokens, "a test")
}

fn user(content: &str) -> [Message; 1] {
    [Message { role: "user".to_owned(), content: content.to_owned() }]
}

#[test]
fn renders_as_transformers_does() {
    let expected: Value = serde_json::from_slice(&fs::read(fixtures().join("chats.json")).unwrap()).unwrap();
    let chats = expected["chats"].as_array().unwrap();
    let mut differ = Vec::new();
    for chat in chats {
        let name = chat["template"].as_str().unwrap();
        let conversation = chat["conversation"].as_str().unwrap();
        let messages: Vec<Message> = serde_json::from_value(expected["conversations"][conversation].clone()).unwrap();
        let prompt = match chat["add_generation_prompt"].as_bool().unwrap() {
            true => GenerationPrompt::Added,
            false => GenerationPrompt::LeftOut,
        };
        let template = template(&fs::read_to_string(fixtures().join(name)).unwrap()).unwrap();
        let found = template.render(&messages, prompt);
        let same = match (&found, chat["text"].as_str(), chat["error"].as_str()) {
            (Ok(found), Some(text), None) => found == text,
            (Err(CorpusError::ChatRefused { message, .. }), None, Some(error)) => message == error,
            _ => false,
        };
        if !same {
            differ.push(format!("{name}, {conversation}, {prompt:?}:\n{found:?}\ninstead of\n{chat}"));
        }
    }
    assert_eq!(chats.len(), 7 * 10 * 2);
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..3.min(differ.len())].join("\n"));
}

#[test]
fn a_folder_says_where_its_template_is() {
    let say = |text: &str| format!("{{{{ bos_token }}}}{text} {{{{ messages[0].content }}}}{{{{ pad_token }}}}");
    let plain = serde_json::json!({
        "chat_template": say("config"), "bos_token": "<s>", "pad_token": { "content": "<p>" }, "add_bos_token": true
    });
    let list = serde_json::json!({ "chat_template": [
        { "name": "tool_use", "template": say("tools") }, { "name": "default", "template": say("list") }
    ] });
    let cases = [
        ("nothing", None, None, None),
        ("no template", Some(serde_json::json!({ "bos_token": "<s>" })), None, None),
        ("config", Some(plain.clone()), None, Some("<s>config x<p>")),
        ("list", Some(list), None, Some("list x")),
        ("file", None, Some(say("file")), Some("file x")),
        ("both", Some(plain), Some(say("file")), Some("<s>file x<p>")),
    ];
    for (name, config, file, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        if let Some(config) = config {
            fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        }
        if let Some(file) = file {
            fs::write(folder.path().join("chat_template.jinja"), file).unwrap();
        }
        let template = ChatTemplate::from_folder(folder.path()).unwrap();
        let text = template.map(|template| template.render(&user("x"), GenerationPrompt::LeftOut).unwrap());
        assert_eq!(text.as_deref(), wanted, "{name}");
    }
}

#[test]
fn errors_name_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let here = format!("{}/", folder.path().display());
    let check = |config: &str, file: Option<&str>, wanted: &str| {
        fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        match file {
            Some(file) => fs::write(folder.path().join("chat_template.jinja"), file).unwrap(),
            None => drop(fs::remove_file(folder.path().join("chat_template.jinja"))),
        }
        let rendered = ChatTemplate::from_folder(folder.path())
            .and_then(|template| template.unwrap().render(&user("x"), GenerationPrompt::Added));
        let error = rendered.unwrap_err().to_string().replace(&here, "");
        assert!(error.starts_with(wanted), "{error}\ninstead of\n{wanted}");
    };
    let jinja = "chat_template.jinja:";
    check("{", None, "tokenizer_config.json: EOF while parsing");
    check(r#"{"chat_template": 7}"#, None, "tokenizer_config.json, `chat_template`: it is neither a template nor");
    check(r#"{"chat_template": []}"#, None, "tokenizer_config.json, `chat_template`: it is neither a template nor");
    let config = r#"{"chat_template": "a\n{% if %}"}"#;
    check(config, None, "tokenizer_config.json, `chat_template`:2: the chat template cannot be used: syntax error");
    check("{}", Some("a\n\n{% for x in %}"), &format!("{jinja}3: the chat template cannot be used: syntax error"));
    check("{}", Some("a\n{% if true %}\n"), &format!("{jinja}2: the chat template cannot be used: syntax error"));
    check("{}", Some("a\n{{ x | nofilter }}"), &format!("{jinja}2: the chat template cannot be used: unknown filter"));
    check("{}", Some("\n\n\n{{ x.y.z }}"), &format!("{jinja}4: the chat template cannot be used: undefined value"));
    check("{}", Some("{{ raise_exception('not so') }}"), "the chat template refuses this conversation: not so (chat");
    check("{}", Some("{{ strftime_now('%') }}"), &format!("{jinja}1: the chat template cannot be used: invalid"));
}

/// Programs without an end, and texts without bounds: each is told with its place and the limit, soon.
#[test]
fn hostile_templates_end() {
    let nested = |statement: &str| {
        let (open, close) = ("{% for i in range(99999) %}", "{% endfor %}");
        format!("{{% set ns = namespace(x='x') %}}{}{statement}{}", open.repeat(5), close.repeat(5))
    };
    let start = "{% set ns = namespace(x=[]) %}".to_owned();
    // A list that holds the last one twice, so often.
    let doubled = |times: usize| start.clone() + &"{% set ns.x = [ns.x, ns.x] %}".repeat(times);
    // In one tag, and hidden from who takes strings or raw text for tags.
    let chain = |before: &str| format!("{{% set x = 1 %}}{before}x{} }}}}", "+x".repeat(3000));
    let tag = "a tag has 60";
    let deep = start.clone() + "{% for i in range(15000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let (steps, levels) = ("it takes more than 201002 steps", "of more than 100 levels");
    let cases: Vec<(String, &str)> = vec![
        (nested(""), steps),
        (nested("{{ 1 }}"), steps),
        (nested("{% set ns.x = ns.x ~ ns.x %}"), steps),
        (nested("{% set ns.x = ns.x + ns.x %}"), steps),
        (nested("{% set ns.x = ns.x * 9 %}"), steps),
        (nested("{% set ns.x = ns.x.replace('x', 'xxxxxxxxx') %}"), steps),
        (doubled(50) + "{{ ns.x }}", steps),
        (doubled(50) + "{{ ns.x | tojson }}", steps),
        (doubled(200) + "{{ ns.x }}", levels),
        (deep.clone() + "{{ ns.x }}", levels),
        (deep.clone() + "{{ ns.x | tojson }}", levels),
        (start.clone() + "{% set ns.x = ns %}{{ ns }}", levels),
        (start.clone() + "{% set ns.x = ns %}{{ ns | tojson }}", levels),
        ("{{ [1] | tojson(indent=10**15) }}".to_owned(), steps),
        ("{{ [1] | tojson(indent=18446744073709551615) }}".to_owned(), steps),
        ("{{ range(99999) | list | tojson(indent=99999) }}".to_owned(), steps),
        ("{{ range(99999) | list | tojson(separators=['x' * 99999, 'y']) }}".to_owned(), steps),
        ("{{ ['\u{e9}' * 40000000] | tojson(ensure_ascii=true) }}".to_owned(), steps),
        ("{{ ['\u{e9}' * 40000000] }}".to_owned(), steps),
        ("{{ 'x' * 99999999 }}".to_owned(), steps),
        ("{{ strftime_now('%A' * 999999) }}".to_owned(), steps),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".to_owned(), "recursion"),
        ("x".repeat((1 << 16) + 1), "it has 65537 bytes, but may have at most 65536"),
        (chain("{{ "), tag),
        (chain("{{ '}}' + "), tag),
        (chain("{{ '\\'}}' + "), tag),
        (chain("{% raw %}{{ \"{% endraw %}{{ \"}}\" + "), tag),
        (chain("{# {{ ' #}{{ "), tag),
        ("{{ x".to_owned() + &"+x".repeat(2000) + " }}", "tried to use + operator"),
    ];
    for (source, wanted) in cases {
        let start = std::time::Instant::now();
        let rendered = template(&source).and_then(|template| template.render(&user("x"), GenerationPrompt::Added));
        let name = &source[..source.len().min(150)];
        let error = rendered.expect_err(name).to_string();
        assert!(error.starts_with("a test:") && error.contains(wanted), "{name}: {error}");
        // A second on a machine that has nothing else to do.
        assert!(start.elapsed().as_secs() < 10, "{name}: {:?}", start.elapsed());
    }
    // What is long because the conversation is, is rendered.
    // Ending with the user, as some templates want before an answer.
    let role = |i: usize| ["user", "assistant"][i % 2].to_owned();
    let long = (0..2001).map(|i| Message { role: role(i), content: format!("{i} ").repeat(500) });
    let long: Vec<Message> = long.collect();
    let mut n_rendered = 0;
    for name in fs::read_dir(fixtures()).unwrap().map(|file| file.unwrap().path()) {
        if name.extension().is_some_and(|extension| extension == "jinja") {
            let template = template(&fs::read_to_string(&name).unwrap()).unwrap();
            let text = template.render(&long, GenerationPrompt::Added);
            let text = text.unwrap_or_else(|error| panic!("{}: {error}", name.display()));
            assert!(text.len() > 2000 * 1000, "{}: {} bytes", name.display(), text.len());
            n_rendered += 1;
        }
    }
    assert!(n_rendered >= 7, "{n_rendered} templates");
}

#[test]
fn todays_date() {
    let text = |source: &str| template(source).unwrap().render(&[], GenerationPrompt::LeftOut).unwrap();
    let today = |format: &str| {
        let output = std::process::Command::new("date").arg(format!("+{format}")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    // Midnight may fall between the two.
    let found = || ["%d %b %Y", "%A, %B %-d, %Y", "%Y-%m-%d"].map(|f| text(&format!("{{{{ strftime_now('{f}') }}}}")));
    let wanted = || ["%d %b %Y", "%A, %B %-d, %Y", "%Y-%m-%d"].map(today);
    assert!(found() == wanted() || found() == wanted());
}
