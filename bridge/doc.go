// Package bridge is the kind of network that one Linux bridge on one host
// makes, with the built-in bridge driver's options and meanings.
//
//	kind := bridge.New(bridge.Config{Kernel: k, Firewall: fw, Ports: table, Later: later})
//	d, err := driver.New(driver.Config{Kinds: map[string]driver.Kind{"bridge": kind}, …})
//
// It does not share anything with other hosts, it hands out no addresses, and
// it publishes ports itself only with publish=native; with publish=docker the
// engine does that through its own docker_gwbridge.
package bridge
