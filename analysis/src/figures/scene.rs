//! A drawing as a list of shapes in picture units, painted by plotters as SVG or as PNG.
//!
//! Figures build scenes and never see a backend, so there is one drawing routine (`paint`) and both files show the
//! same. Shapes are painted at `SCALE` device pixels per unit, because plotters works in whole pixels; the PNG is then
//! averaged down, which smooths edges.

use std::sync::OnceLock;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontFamily, FontStyle, FontTransform, register_font};

/// Device pixels per unit while painting.
const SCALE: u32 = 4;
/// Painted pixels averaged into one pixel of the PNG, per direction.
const AVERAGED: u32 = 2;
/// Plotters sets bitmap text higher above its centre than a viewer of SVG does, by this share of its size.
const BITMAP_DROP: f64 = 0.12;
/// The embedded font (DejaVu Sans) with what a viewer of the SVG may use where it is not installed.
const FONT: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";

/// A colour with opacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ink {
    /// Red, green, blue.
    pub rgb: (u8, u8, u8),
    /// 0 invisible to 1 solid.
    pub opacity: f64,
}

impl Ink {
    /// A solid colour.
    pub const fn solid(red: u8, green: u8, blue: u8) -> Self {
        Ink { rgb: (red, green, blue), opacity: 1.0 }
    }

    /// The same colour, see-through.
    pub fn faded(self, opacity: f64) -> Self {
        Ink { opacity, ..self }
    }

    fn plotters(self) -> RGBAColor {
        RGBAColor(self.rgb.0, self.rgb.1, self.rgb.2, self.opacity)
    }
}

/// Where a text is held horizontally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// At its middle.
    Middle,
    /// At its end.
    End,
}

/// How a text is set; it is always centred vertically on its point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextStyleOf {
    /// Height of the font in units.
    pub size: f64,
    /// Colour.
    pub ink: Ink,
    /// Where it is held.
    pub anchor: Anchor,
    /// Heavy weight.
    pub bold: bool,
    /// Turned to read from bottom to top.
    pub upward: bool,
}

/// One shape, in units from the upper left corner.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A line through points.
    Line {
        /// The points.
        points: Vec<(f64, f64)>,
        /// Colour.
        ink: Ink,
        /// Width.
        width: f64,
    },
    /// A filled polygon.
    Polygon {
        /// Its corners.
        points: Vec<(f64, f64)>,
        /// Colour.
        ink: Ink,
    },
    /// A filled disc.
    Disc {
        /// Its centre.
        centre: (f64, f64),
        /// Its radius.
        radius: f64,
        /// Colour.
        ink: Ink,
    },
    /// A line of text.
    Text {
        /// Where it is held.
        at: (f64, f64),
        /// The text.
        text: String,
        /// How it is set.
        style: TextStyleOf,
    },
}

/// A drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Width in units.
    pub width: f64,
    /// Height in units.
    pub height: f64,
    /// Shapes, painted in order.
    pub shapes: Vec<Shape>,
}

/// Why a picture could not be made. Both cases are faults of the program, not of the data.
#[derive(Debug, thiserror::Error)]
pub enum DrawError {
    /// Plotters refused.
    #[error("painting a figure: {0}")]
    Paint(String),
    /// The PNG encoder refused.
    #[error("encoding a figure as PNG: {0}")]
    Encode(#[from] png::EncodingError),
}

impl Scene {
    /// An empty white drawing.
    pub fn new(width: f64, height: f64) -> Self {
        Scene { width, height, shapes: Vec::new() }
    }

    /// A line through points.
    pub fn line(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, ink, width });
        }
    }

    /// A line of dashes: `pattern` is the length drawn and the length left out; a zero gap is a solid line.
    pub fn dashed(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64, pattern: (f64, f64)) {
        if pattern.1 <= 0.0 {
            return self.line(points, ink, width);
        }
        for dash in dashes(&points, pattern) {
            self.line(dash, ink, width);
        }
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: Vec<(f64, f64)>, ink: Ink) {
        if points.len() > 2 {
            self.shapes.push(Shape::Polygon { points, ink });
        }
    }

    /// A filled rectangle from its upper left corner.
    pub fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, ink: Ink) {
        self.polygon(vec![(x, y), (x + width, y), (x + width, y + height), (x, y + height)], ink);
    }

    /// A filled disc.
    pub fn disc(&mut self, centre: (f64, f64), radius: f64, ink: Ink) {
        self.shapes.push(Shape::Disc { centre, radius, ink });
    }

    /// A line of text.
    pub fn text(&mut self, at: (f64, f64), text: impl Into<String>, style: TextStyleOf) {
        self.shapes.push(Shape::Text { at, text: text.into(), style });
    }

    /// The drawing as an SVG document.
    pub fn to_svg(&self) -> Result<String, DrawError> {
        let mut svg = String::new();
        let (width, height) = self.pixels();
        {
            let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
            paint(self, &area, 0.0).map_err(|error| DrawError::Paint(error.to_string()))?;
            area.present().map_err(|error| DrawError::Paint(error.to_string()))?;
        }
        let size = |units: f64| units.round() as u32;
        Ok(svg.replacen(
            &format!("width=\"{width}\" height=\"{height}\""),
            &format!("width=\"{}\" height=\"{}\"", size(self.width), size(self.height)),
            1,
        ))
    }

    /// The drawing as a PNG file of two pixels per unit.
    pub fn to_png(&self) -> Result<Vec<u8>, DrawError> {
        let (width, height) = self.pixels();
        let mut pixels = vec![255; (width * height * 3) as usize];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
            paint(self, &area, BITMAP_DROP).map_err(|error| DrawError::Paint(error.to_string()))?;
            area.present().map_err(|error| DrawError::Paint(error.to_string()))?;
        }
        let averaged = average(&pixels, width as usize, height as usize);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width / AVERAGED, height / AVERAGED);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&averaged)?;
        writer.finish()?;
        Ok(bytes)
    }

    fn pixels(&self) -> (u32, u32) {
        let pixels = |units: f64| (units.round().max(1.0) as u32) * SCALE;
        (pixels(self.width), pixels(self.height))
    }
}

/// The width of a text in units.
pub fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    register();
    let font = font(size, bold);
    font.box_size(text)
        .map_or(size * 0.6 * text.chars().count() as f64, |(width, _)| f64::from(width) / f64::from(SCALE))
}

/// Registers the embedded font with plotters, once.
fn register() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // A font that plotters refused would make every text fail to paint, which `to_svg` and `to_png` report.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

fn font(size: f64, bold: bool) -> FontDesc<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    FontDesc::new(FontFamily::Name(FONT), size * f64::from(SCALE), style)
}

fn device(units: f64) -> i32 {
    (units * f64::from(SCALE)).round() as i32
}

/// Paints the shapes; texts are moved down by `drop` times their size.
fn paint<B: DrawingBackend>(
    scene: &Scene,
    area: &DrawingArea<B, plotters::coord::Shift>,
    drop: f64,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    register();
    area.fill(&WHITE)?;
    let points =
        |points: &[(f64, f64)]| points.iter().map(|(x, y)| (device(*x), device(*y))).collect::<Vec<_>>();
    for shape in &scene.shapes {
        match shape {
            Shape::Line { points: line, ink, width } => {
                let width = (width * f64::from(SCALE)).round().max(1.0) as u32;
                area.draw(&PathElement::new(points(line), ink.plotters().stroke_width(width)))?;
            }
            Shape::Polygon { points: corners, ink } => {
                area.draw(&Polygon::new(points(corners), ink.plotters().filled()))?;
            }
            Shape::Disc { centre, radius, ink } => {
                let centre = (device(centre.0), device(centre.1));
                area.draw(&Circle::new(centre, device(*radius), ink.plotters().filled()))?;
            }
            Shape::Text { at, text, style } => {
                let horizontal = match style.anchor {
                    Anchor::Start => HPos::Left,
                    Anchor::Middle => HPos::Center,
                    Anchor::End => HPos::Right,
                };
                let transform = if style.upward { FontTransform::Rotate270 } else { FontTransform::None };
                let below = drop * style.size;
                let at = if style.upward { (at.0 + below, at.1) } else { (at.0, at.1 + below) };
                let style = font(style.size, style.bold)
                    .transform(transform)
                    .color(&style.ink.plotters())
                    .pos(Pos::new(horizontal, VPos::Center));
                area.draw(&Text::new(text.as_str(), (device(at.0), device(at.1)), style))?;
            }
        }
    }
    Ok(())
}

/// Averages squares of `AVERAGED` × `AVERAGED` pixels of an RGB picture.
fn average(pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
    let side = AVERAGED as usize;
    let mut result = Vec::with_capacity(pixels.len() / (side * side));
    for row in 0..height / side {
        for column in 0..width / side {
            for channel in 0..3 {
                let at =
                    |dy: usize, dx: usize| ((row * side + dy) * width + column * side + dx) * 3 + channel;
                let places = (0..side).flat_map(|dy| (0..side).map(move |dx| (dy, dx)));
                let total: u32 =
                    places.filter_map(|(dy, dx)| pixels.get(at(dy, dx))).map(|value| u32::from(*value)).sum();
                result.push(((total + AVERAGED * AVERAGED / 2) / (AVERAGED * AVERAGED)) as u8);
            }
        }
    }
    result
}

/// Cuts a line into dashes of length `drawn`, `gap` apart.
fn dashes(points: &[(f64, f64)], (drawn, gap): (f64, f64)) -> Vec<Vec<(f64, f64)>> {
    let mut result = Vec::new();
    let (mut on, mut left) = (true, drawn);
    let mut dash: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let [(mut x, mut y), (to_x, to_y)] = *pair else { continue };
        loop {
            let length = (to_x - x).hypot(to_y - y);
            if length <= left {
                left -= length;
                if on {
                    dash.push((to_x, to_y));
                }
                break;
            }
            let share = left / length;
            (x, y) = (x + share * (to_x - x), y + share * (to_y - y));
            if on {
                dash.push((x, y));
                result.push(std::mem::take(&mut dash));
            } else {
                dash = vec![(x, y)];
            }
            on = !on;
            left = if on { drawn } else { gap };
        }
    }
    if on && dash.len() > 1 {
        result.push(dash);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_have_their_lengths_across_corners() {
        let cut = dashes(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)], (6.0, 2.0));
        assert_eq!(cut[0], [(0.0, 0.0), (6.0, 0.0)]);
        assert_eq!(cut[1], [(8.0, 0.0), (10.0, 0.0), (10.0, 4.0)]);
        assert_eq!(cut[2], [(10.0, 6.0), (10.0, 10.0)]);
    }

    #[test]
    fn both_formats_have_the_size_and_the_escaped_text() {
        let mut scene = Scene::new(100.0, 50.0);
        let style = TextStyleOf {
            size: 12.0,
            ink: Ink::solid(0, 0, 0),
            anchor: Anchor::Start,
            bold: false,
            upward: false,
        };
        scene.text((10.0, 20.0), "a < b & <script>", style);
        scene.disc((50.0, 25.0), 4.0, Ink::solid(255, 0, 0));
        let svg = scene.to_svg().unwrap();
        assert!(
            svg.contains("width=\"100\" height=\"50\"") && svg.contains("viewBox=\"0 0 400 200\""),
            "{svg}"
        );
        assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script>"));
        let bytes = scene.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!((reader.info().width, reader.info().height), (200, 100));
        let centre = (50 * 200 + 100) * 3;
        assert_eq!(&pixels[centre..centre + 3], [255, 0, 0]);
    }

    #[test]
    fn texts_have_a_width() {
        assert!(text_width("mmmm", 12.0, false) > text_width("iiii", 12.0, false));
    }
}
