// Package storetest runs real etcd servers for tests, on loopback addresses of a
// network namespace that the tests have for themselves.
//
//	func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }
//
//	func TestSomething(t *testing.T) {
//		c := storetest.Start(t, storetest.Config{Version: "3.5", Members: 3})
//		s, err := store.Open(store.Config{Endpoints: c.Endpoints()})
//		c.Kill(0)
//	}
//
// The servers are Debian's: 3.4 that of bookworm, 3.5 that of trixie. They are
// fetched once into the cache of the lab; what cannot be fetched fails the tests.
// Every server ends with its test, and with the test process however that ends.
//
// It does not know weft's client, and does not run on the machine's own network.
package storetest
