//! Nothing of its own: the tests are in `end_to_end/`, the plugins that misbehave for them in
//! `guests/`.
