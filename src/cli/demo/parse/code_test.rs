use super::*;

fn found(source: &str, kind: FileKind) -> Vec<(SymbolKind, String, u32)> {
    symbols(source.as_bytes(), kind).into_iter().map(|s| (s.kind, s.name, s.line)).collect()
}

fn names(source: &str, kind: FileKind) -> Vec<String> {
    found(source, kind).into_iter().map(|(_, name, _)| name).collect()
}

#[test]
fn rust_items_are_found_with_kind_and_line() {
    let source = "mod a;\npub(crate) struct B<T>(T);\nimpl<T> From<B<T>> for u8\nwhere\n    T: X {\n\
                  \x20   pub async fn r#type() -> fn(u8) { \"fn no\"; }\n}\nmacro_rules! m { () => {} }\n\
                  // fn no\nunsafe impl Send for C {}\nenum E {} trait T {}\n";
    let expected = [
        (SymbolKind::Module, "a", 1),
        (SymbolKind::Struct, "B", 2),
        (SymbolKind::Impl, "<T> From<B<T>> for u8", 3),
        (SymbolKind::Function, "type", 6),
        (SymbolKind::Macro, "m", 8),
        (SymbolKind::Impl, "Send for C", 10),
        (SymbolKind::Enum, "E", 11),
        (SymbolKind::Trait, "T", 11),
    ];
    assert_eq!(found(source, FileKind::Rust), expected.map(|(k, n, l)| (k, n.to_owned(), l)));
}

#[test]
fn python_strings_and_comments_define_nothing() {
    let source = "class A:\n    '''\n    def no(): 'x'\n    '''\n    async def b(self): pass\n\
                  # def no()\ndef c(): return \"\"\"class no\n\"\"\"\ndefine = 1\n";
    assert_eq!(names(source, FileKind::Python), ["A", "b", "c"]);
}

#[test]
fn scripts_export_functions_classes_constants_and_types() {
    let source = "export default async function* gen$() {}\nclass extends B {}\nclass D {}\n\
                  export const x = `function no`;\nexport const enum E {}\nexport type T<A> = A;\n\
                  interface I {}\ntype = 3;\nobj.function = 1;\n";
    assert_eq!(names(source, FileKind::TypeScript), ["gen$", "D", "x", "E", "T", "I"]);
    assert_eq!(names(source, FileKind::JavaScript), ["gen$", "D", "x"]);
}

#[test]
fn go_functions_methods_and_types_are_found() {
    let source = "func Run() {}\nfunc (s *S) Do(x int) {}\ntype S struct{}\n\tfunc no() {}\n\
                  /* \nfunc no() */\nvar f = func(x int) {}\n";
    assert_eq!(names(source, FileKind::Go), ["Run", "Do", "S"]);
}

#[test]
fn shell_functions_are_found_in_both_forms() {
    let source = "build() {\n  function clean-up {\n  echo a (b)\n  x.y ( ) { :; }\n# no()\n";
    assert_eq!(names(source, FileKind::Shell), ["build", "clean-up", "x.y"]);
}
