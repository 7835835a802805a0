//! The Helm chart gives the objects of the kustomizations: same kinds, names and contents, for every overlay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

type Objects = BTreeMap<(String, String, String), Value>;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn overlays() -> Vec<PathBuf> {
    let dir = top().join("examples/kubernetes/overlays");
    let mut overlays: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    overlays.sort();
    assert!(overlays.len() >= 4, "{overlays:?}");
    overlays
}

fn objects(yaml: &str) -> Objects {
    let mut objects = Objects::new();
    for document in serde_yaml::Deserializer::from_str(yaml) {
        let object: Value = serde::Deserialize::deserialize(document).unwrap();
        if object.is_null() {
            continue;
        }
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let key = (
            text("/kind").to_owned(),
            text("/metadata/namespace").to_owned(),
            text("/metadata/name").to_owned(),
        );
        assert!(!key.0.is_empty() && !key.2.is_empty(), "{object}");
        assert!(objects.insert(key.clone(), object).is_none(), "{key:?} twice");
    }
    objects
}

/// What the chart gives; `None` where Helm cannot be had and nothing requires it.
fn chart(values: &Value) -> Option<Result<Objects, String>> {
    let file = std::env::temp_dir().join(format!(
        "podroute-chart-{}-{:?}.json",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, values.to_string()).unwrap();
    let out = Command::new(top().join("e2e/helm-template"))
        .arg(top().join("examples/helm/podroute"))
        .arg("podroute")
        .arg(&file)
        .output()
        .unwrap();
    let _ = std::fs::remove_file(&file);
    let (text, error) = texts(&out);
    match out.status.code() {
        Some(0) => Some(Ok(objects(&text))),
        Some(3) => {
            let required = std::env::var("LAB_REQUIRE").is_ok_and(|value| value == "1");
            assert!(!required, "{error}");
            println!("left out: {error}");
            None
        }
        _ => Some(Err(error)),
    }
}

fn texts(out: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

fn kustomize(overlay: &Path) -> Option<Objects> {
    let out = Command::new("kubectl").arg("kustomize").arg(overlay).output();
    let Ok(out) = out else {
        println!("left out: no kubectl");
        return None;
    };
    let (text, error) = texts(&out);
    assert!(out.status.success(), "{}: {error}", overlay.display());
    Some(objects(&text))
}

#[test]
fn the_chart_gives_the_objects_of_every_overlay() {
    for overlay in overlays() {
        let config = std::fs::read_to_string(overlay.join("podroute.yaml")).unwrap();
        let values = json!({"config": config, "createNamespace": true});
        let (Some(from_kustomize), Some(from_chart)) = (kustomize(&overlay), chart(&values)) else {
            return;
        };
        assert!(from_kustomize.len() >= 8, "{:?}", from_kustomize.keys());
        assert_eq!(from_chart.unwrap(), from_kustomize, "{}", overlay.display());
    }
}

#[test]
fn the_chart_gives_the_admission_policies() {
    let values = json!({
        "config": "apiVersion: podroute/v1\n",
        "admission": {"ownNode": true, "services": true},
    });
    let Some(from_chart) = chart(&values) else {
        return;
    };
    let mut from_chart = from_chart.unwrap();
    from_chart.retain(|(kind, ..), _| kind.starts_with("ValidatingAdmissionPolicy"));
    let mut shipped = Objects::new();
    for name in ["own-node", "services"] {
        let file = top().join(format!("examples/kubernetes/admission/{name}.yaml"));
        shipped.extend(objects(&std::fs::read_to_string(file).unwrap()));
    }
    assert_eq!(shipped.len(), 4);
    assert_eq!(from_chart, shipped);
}

#[test]
fn the_image_can_be_named_by_digest() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let values = json!({
        "config": "apiVersion: podroute/v1\n",
        "image": {"repository": "registry.example/podroute", "digest": digest},
    });
    let Some(from_chart) = chart(&values) else {
        return;
    };
    let from_chart = from_chart.unwrap();
    let daemonset = &from_chart[&("DaemonSet".into(), "podroute".into(), "podroute".into())];
    for image in [
        "/spec/template/spec/containers/0/image",
        "/spec/template/spec/initContainers/0/image",
    ] {
        let image = daemonset.pointer(image).unwrap();
        assert_eq!(image, &json!(format!("registry.example/podroute@{digest}")));
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (values, named) in [
        (json!({}), "config"),
        (json!({"config": "kind: ConfigMap"}), "config"),
        (
            json!({"config": "apiVersion: podroute/v1", "image": {"digest": "latest"}}),
            "digest",
        ),
        (json!({"config": "apiVersion: podroute/v1", "imgae": {}}), "imgae"),
    ] {
        let Some(outcome) = chart(&values) else {
            return;
        };
        let error = outcome.expect_err(&values.to_string());
        assert!(error.contains(named), "{values}: {error}");
    }
}

#[test]
fn every_manifest_names_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("examples/helm/podroute/Chart.yaml", format!("version: {version}")),
        (
            "examples/helm/podroute/Chart.yaml",
            format!("appVersion: {version}"),
        ),
        (
            "examples/kubernetes/base/kustomization.yaml",
            format!("newTag: v{version}"),
        ),
        (
            "examples/kubernetes/uninstall/kustomization.yaml",
            format!("newTag: v{version}"),
        ),
        ("examples/krew/podroute.yaml", format!("version: v{version}")),
    ] {
        let text = std::fs::read_to_string(top().join(file)).unwrap();
        assert!(
            text.lines().any(|found| found.trim() == line),
            "{file}: no line {line:?}"
        );
    }
}
