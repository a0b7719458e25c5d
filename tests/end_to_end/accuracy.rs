//! Pictures over HTTP, through the image classifier, to ONNX Runtime and back.

use crate::support::files::{classifier, digits_endpoint, pictures};
use crate::support::{Host, Request};

/// How many pictures there are and how many were answered rightly, by label.
fn measure(host: &Host) -> [(usize, usize); 10] {
    let mut connection = host.connect();
    let mut counts = [(0, 0); 10];
    for picture in pictures() {
        let answer = connection.send(&Request::invoke("digits", &picture.png)).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let label: u8 = answer.label().parse().unwrap();
        let (all, right) = &mut counts[usize::from(picture.label)];
        *all += 1;
        *right += usize::from(label == picture.label);
    }
    counts
}

fn share(counts: &[(usize, usize)]) -> f64 {
    let all: usize = counts.iter().map(|count| count.0).sum();
    let right: usize = counts.iter().map(|count| count.1).sum();
    assert!(all > 50, "only {all} pictures");
    right as f64 / all as f64
}

#[test]
fn held_out_digits_are_recognised() {
    let host = Host::with_digits(&[]);

    host.apply(&digits_endpoint(1));
    let counts = measure(&host);
    assert!(share(&counts[..8]) >= 0.95, "version 1 on what it learned: {counts:?}");
    assert_eq!(share(&counts[8..]), 0.0, "version 1 never learned 8 and 9: {counts:?}");

    host.apply(&digits_endpoint(2));
    let counts = measure(&host);
    assert!(share(&counts) >= 0.95, "version 2: {counts:?}");
    assert!(share(&counts[8..]) >= 0.85, "version 2 on 8 and 9: {counts:?}");
}

#[test]
fn labels_come_from_a_file() {
    let mut host = Host::with_digits(&[]);
    let names = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"];
    host.file("labels.txt", names.join("\n"));
    host.apply(&classifier("digits", "digits@2", "assets = { labels = \"labels.txt\" }"));
    // What is live needs neither the file nor the command any more.
    std::fs::remove_file(host.folder().join("labels.txt")).unwrap();
    host.restart();
    let mut connection = host.connect();
    let mut right = 0;
    for picture in &pictures()[..40] {
        let answer = connection.send(&Request::invoke("digits", &picture.png)).unwrap();
        let prediction = &answer.json()["predictions"][0];
        let class = prediction["class"].as_u64().unwrap() as usize;
        assert_eq!(prediction["label"], names[class]);
        right += usize::from(names[usize::from(picture.label)] == names[class]);
    }
    assert!(right >= 36, "{right} of 40");
}
