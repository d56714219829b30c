//! The pictures of a small timeline, drawn by hand first.

use mesh::StageMap;
use schedule::{Backward, Kind, Spec, generate};
use simulate::{Costs, Link, StageCost, Timeline, simulate, svg, svg_until, text};

/// GPipe on 2 ranks with 2 microbatches, forward 1 s, backward 2 s: 9 s.
fn timeline(latency_s: f64) -> Timeline {
    let spec = Spec { kind: Kind::Gpipe, backward: Backward::Fused };
    let route = StageMap::one_per_rank(2).route();
    let cost = StageCost { forward_s: 1.0, backward_s: 2.0, ..StageCost::default() };
    let link = |from, to| Link { from: mesh::Rank(from), to: mesh::Rank(to), latency_s, bytes_per_s: 1.0 };
    let costs = Costs { stages: vec![cost; 2], links: vec![link(0, 1), link(1, 0)], ..Costs::default() };
    let schedule = generate(spec, &route, 2, &[]).expect("2 microbatches are enough");
    simulate(&schedule, &costs).expect("costs of both stages are given")
}

/// 36 columns after the margin: 4 a second.
#[test]
fn text_at_four_columns_a_second() {
    let expected = [
        "rank 0 │F0──F1──            B1══════B0══════",
        "rank 1 │    F0──F1──B1══════B0══════",
        "       └┴───────────────────┴───────────────",
        "        0 s                 5 s",
        "        B═ backward   F─ forward",
    ];
    assert_eq!(text(&timeline(0.0), 44).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn text_keeps_to_its_width() {
    for width in [40, 41, 79, 80, 133, 160] {
        for line in text(&timeline(0.5), width).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    assert_eq!(text(&Timeline::default(), 80), "nothing was played\n");
}

#[test]
fn svg_shows_every_action() {
    let count = |page: &str, part: &str| page.matches(part).count();
    let page = svg(&timeline(0.0), "a < b & c");
    assert!(page.contains(">a &lt; b &amp; c</text>"));
    // 4 forwards and 4 backwards, each with its colour, its microbatch and its tooltip, and 2 entries of the legend.
    assert_eq!(count(&page, r#"<rect class="f""#), 4 + 1);
    assert_eq!(count(&page, r#"<rect class="b""#), 4 + 1);
    assert_eq!(count(&page, r#"<text class="on""#), 8);
    assert!(page.contains("<title>1B0: 5.000 s to 7.000 s (2.000 s)</title>"), "{page}");
    // Messages show when they take time.
    assert_eq!(count(&page, r#"class="m""#), 0);
    assert_eq!(count(&svg(&timeline(0.5), "a"), r#"<rect class="m""#), 4 + 1);
    for tag in ["svg", "g", "text", "title", "style"] {
        let opened = count(&page, &format!("<{tag} ")) + count(&page, &format!("<{tag}>"));
        assert_eq!(opened, count(&page, &format!("</{tag}>")), "{tag}");
    }
}

/// The last backward ends at 9 s: at the right edge (x = 1144) of its own axis, in the middle of one twice as long.
#[test]
fn svg_with_a_common_time_axis() {
    let timeline = timeline(0.0);
    let end_of_last_bar = |page: &str| {
        let number = |rect: &str, name: &str| -> f64 {
            let (_, rest) = rect.split_once(&format!(" {name}=\"")).expect("the attribute is there");
            rest.split('"').next().expect("a first part").parse().expect("a number")
        };
        let bars = page.lines().filter(|line| line.contains("<title>"));
        bars.map(|bar| number(bar, "x") + number(bar, "width")).fold(0.0, f64::max)
    };
    let (left, right) = (70.0, 1144.0);
    for (until_s, end) in [(9.0, right), (18.0, (left + right) / 2.0), (1.0, right)] {
        // Positions are printed with two digits.
        let found = end_of_last_bar(&svg_until(&timeline, "a", until_s));
        assert!((found - end).abs() <= 0.011, "until {until_s} s: {found}, not {end}");
    }
}
