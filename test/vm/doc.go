//go:build linux

// Package vm runs tests on Debian's stock kernel, which has the devices that the kernel of
// a build machine may lack: VLANs, ipvlan, dummy. An emulated machine boots that kernel
// from its package, with an initramfs that this package writes; nothing is installed and
// no hardware support is needed.
//
//	suites, err := vm.Needing(".")
//	k, err := vm.Fetch(ctx)
//	results, err := vm.Run(ctx, k, suites, "build/vm")
//
// What runs there are the tests that call kerneltest.Needs, no more and no less: those
// that a lesser kernel skips. The machine's clock runs with its instructions and jumps
// over idle time, so tests that wait cost nothing, and a busy host makes none of them late.
//
// One suite is told with a real engine: its tests run in the root of a host of package lab,
// with the plugin at hand; see [EngineVariable].
//
// "go run ./test/vm/weftvm" is the command. It needs Debian's apt on amd64; the kernel's
// package is fetched once and kept in the cache of package lab.
package vm
