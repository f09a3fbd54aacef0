use sidetrack_policy::{Condition, Field, LayerKind, Value};

use super::*;

fn filter() -> Filter {
    let layer = LayerKind::ConnectRedirect.both()[1];
    let action = Action::Redirect(Uuid::from_u128(7));
    Filter {
        identity: Identity {
            key: Uuid::from_u128(1),
            name: "web".into(),
            description: "to the proxy".into(),
        },
        provider: Some(Uuid::from_u128(2)),
        weight: Weight::Class(3),
        conditions: vec![Condition::equal(
            Field::RemoteAddress,
            Value::Prefix("2001:db8::/32".parse().unwrap()),
        )],
        clear_action_right: true,
        disabled: true,
        on_absent: Some(Absent::Permit),
        context: Some(RedirectContext::Fixed(vec![1, 2])),
        lifetime: Lifetime::Persistent,
        ..Filter::new("", layer, action)
    }
}

#[test]
fn objects_are_read_from_their_messages() {
    let filter = filter();
    assert_eq!(Filter::try_from(v1::Filter::from(&filter)), Ok(filter));
    let service = Service {
        identity: Identity {
            name: "proxy".into(),
            ..Identity::default()
        },
        lifetime: Lifetime::Static,
        provider: None,
        records: RecordsMode::RequiredOrOwn,
        records_bound: true,
        connect: ConnectMode::Pended,
        on_absent: Absent::Permit,
        context: RedirectContext::Auto,
    };
    assert_eq!(
        Service::try_from(v1::Service::from(&service)),
        Ok(service.clone())
    );
    // Clients and stores of earlier versions do not have the field `connect`.
    let earlier = v1::Service {
        connect: 0,
        ..v1::Service::from(&service)
    };
    let service = Service {
        connect: ConnectMode::Accepted,
        ..service
    };
    assert_eq!(Service::try_from(earlier), Ok(service));
    let sublayer = Sublayer {
        identity: Identity::default(),
        lifetime: Lifetime::Persistent,
        provider: Some(Uuid::from_u128(2)),
        weight: u16::MAX,
    };
    assert_eq!(
        Sublayer::try_from(v1::Sublayer::from(&sublayer)),
        Ok(sublayer)
    );
    let provider = Provider {
        identity: Identity::default(),
        lifetime: Lifetime::Static,
        service_name: Some("a.service".into()),
    };
    assert_eq!(
        Provider::try_from(v1::Provider::from(&provider)),
        Ok(provider)
    );
}

#[test]
fn every_layer_has_the_same_name_in_the_api() {
    for each in Layer::all() {
        let wire = v1::Layer::from(each);
        let name = wire.as_str_name()["LAYER_".len()..].replace('_', "-");
        assert_eq!(name.to_lowercase(), each.to_string());
        assert_eq!(Layer::try_from(wire), Ok(each));
    }
}

#[test]
fn case_149_a_filter_is_not_boot_time_and_persistent() {
    let wire = v1::Filter {
        flags: PERSISTENT | BOOT_TIME,
        ..v1::Filter::from(&filter())
    };
    assert_eq!(Filter::try_from(wire).unwrap_err().code, Code::InvalidFlags);
}

#[test]
fn invalid_filters_are_refused() {
    type Change = fn(&mut v1::Filter);
    let changes: [(Change, Code); 16] = [
        (|f| f.key = vec![1; 15], Code::InvalidParameter),
        (|f| f.provider = vec![1; 17], Code::InvalidParameter),
        (|f| f.sublayer = vec![1], Code::InvalidParameter),
        (|f| f.flags = 0x40, Code::InvalidFlags),
        (|f| f.flags = 0x10, Code::InvalidFlags),
        (|f| f.layer = 0, Code::NullPointer),
        (|f| f.layer = 13, Code::LayerNotFound),
        (|f| f.layer = i32::MIN + 1, Code::LayerNotFound),
        (
            |f| f.weight = Some(v1::filter::Weight::Class(16)),
            Code::InvalidWeight,
        ),
        (
            |f| f.weight = Some(v1::filter::Weight::Class(256)),
            Code::InvalidWeight,
        ),
        (|f| f.action = 0, Code::InvalidActionType),
        (|f| f.action = 6, Code::InvalidActionType),
        (|f| f.service.clear(), Code::NullPointer),
        (|f| f.action = 1, Code::InvalidParameter),
        (|f| f.on_absent = 3, Code::InvalidEnumerator),
        (
            |f| f.context = Some(v1::Context { kind: None }),
            Code::NullPointer,
        ),
    ];
    for (index, (change, code)) in changes.into_iter().enumerate() {
        let mut wire = v1::Filter::from(&filter());
        change(&mut wire);
        let checked = Filter::try_from(wire).and_then(|filter| Ok(filter.check()?));
        assert_eq!(checked.unwrap_err().code, code, "change {index}");
    }
}

#[test]
fn other_invalid_objects_are_refused() {
    let service = v1::Service {
        records: 4,
        ..Default::default()
    };
    let error = Service::try_from(service).unwrap_err();
    assert_eq!(error.code, Code::InvalidEnumerator);
    let service = v1::Service {
        connect: 3,
        ..Default::default()
    };
    let error = Service::try_from(service).unwrap_err();
    assert_eq!(error.code, Code::InvalidEnumerator);
    let fixed = v1::context::Kind::Fixed(Vec::new());
    let service = v1::Service {
        context: Some(v1::Context { kind: Some(fixed) }),
        ..Default::default()
    };
    let error = Service::try_from(service).unwrap_err();
    assert_eq!(error.code, Code::ZeroLengthArray);
    let sublayer = v1::Sublayer {
        weight: 65_536,
        ..Default::default()
    };
    let error = Sublayer::try_from(sublayer).unwrap_err();
    assert_eq!(error.code, Code::OutOfBounds);
    let provider = v1::Provider {
        flags: BOOT_TIME,
        ..Default::default()
    };
    let error = Provider::try_from(provider).unwrap_err();
    assert_eq!(error.code, Code::InvalidFlags);
    let port = v1::Endpoint {
        address: vec![127, 0, 0, 1],
        port: 65_536,
    };
    assert_eq!(socket_address(&port).unwrap_err().code, Code::OutOfBounds);
}
