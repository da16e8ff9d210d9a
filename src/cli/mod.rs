//! The `cli` module.

<<<<<<< HEAD
pub mod servers;
=======
pub mod demo;
>>>>>>> main
