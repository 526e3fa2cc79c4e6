//! Cost against number of ports, as SVG.

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// The field of the curves: left, top, right, bottom.
const FIELD: [f64; 4] = [60.0, 40.0, 700.0, 350.0];
const COLOURS: [&str; 2] = ["#0b6e4f", "#c05621"];
/// So many neighbours on each side make the line.
const REACH: usize = 12;

/// Each series has one value, in ms, for each number of ports from 1.
pub fn plot(title: &str, series: &[(&str, &[f64])]) -> String {
    let [left, top, right, bottom] = FIELD;
    let most = series.iter().map(|(_, values)| values.len()).max().unwrap_or(1).max(2) as f64;
    let lines: Vec<Vec<f64>> = series.iter().map(|(_, values)| smooth(values)).collect();
    let highest = lines.iter().flatten().copied().fold(0.1, f64::max);
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().find(|step| highest / step <= 6.0);
    let step = step.unwrap_or(100.0);
    let top_value = (highest / step).ceil() * step;
    let x = |ports: f64| left + (right - left) * (ports - 1.0) / (most - 1.0);
    let y = |value: f64| bottom - (bottom - top) * value.min(top_value) / top_value;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    let mut add = |text: String| svg += &(text + "\n");
    let marks = (0..).map(|mark| f64::from(mark) * step).take_while(|value| *value <= top_value + step / 2.0);
    for value in marks {
        let at = y(value);
        let digits = usize::from(step < 1.0);
        add(format!("<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>"));
        add(format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.digits$}</text>", left - 8.0, at + 4.0));
    }
    for part in 0..=4 {
        let ports = if part == 0 { 1.0 } else { (most * f64::from(part) / 4.0).round() };
        let (at, under) = (x(ports), bottom + 20.0);
        add(format!("<text x=\"{at:.1}\" y=\"{under}\" text-anchor=\"middle\">{ports}</text>"));
    }
    let middle = f64::midpoint(left, right);
    add(format!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">ports on the bridge</text>", bottom + 40.0));
    add(format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">ms</text>", left - 8.0, top - 12.0));
    for (at, ((name, values), line)) in series.iter().zip(&lines).enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let dots = values.iter().enumerate().filter(|(_, value)| **value <= top_value);
        let dots: String =
            dots.map(|(port, value)| format!("M{:.1} {:.1}h0", x(port as f64 + 1.0), y(*value))).collect();
        add(format!(
            "<path d=\"{dots}\" stroke=\"{colour}\" stroke-width=\"2\" stroke-linecap=\"round\" opacity=\"0.25\"/>"
        ));
        let points =
            line.iter().enumerate().map(|(port, value)| format!("{:.1},{:.1} ", x(port as f64 + 1.0), y(*value)));
        let points: String = points.collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.trim_end()
        ));
        let row = top + 18.0 + 20.0 * at as f64;
        add(format!("<path d=\"M{} {}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>", left + 14.0, row - 4.0));
        add(format!("<text x=\"{}\" y=\"{row}\">{name}</text>", left + 46.0));
    }
    svg.push_str("</svg>\n");
    svg
}

/// The medians of each value's neighbourhood.
fn smooth(values: &[f64]) -> Vec<f64> {
    (0..values.len())
        .map(|at| {
            let around = &values[at.saturating_sub(REACH)..values.len().min(at + REACH + 1)];
            super::timing::Times::of(around).median()
        })
        .collect()
}
