package storetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/weft-net/weft/internal/testca"
)

// An Authority signs certificates for a test and keeps them in files.
type Authority struct {
	// CA is the file of its own certificate.
	CA string

	dir string
	ca  *testca.Authority
}

// NewAuthority makes an authority whose files are in dir.
func NewAuthority(tb testing.TB, dir, name string) *Authority {
	tb.Helper()
	ca, err := testca.New(name)
	if err != nil {
		tb.Fatal(err)
	}
	a := &Authority{CA: filepath.Join(dir, name+".ca.pem"), dir: dir, ca: ca}
	write(tb, a.CA, ca.PEM)
	return a
}

// Issue makes a certificate for a server at addresses, or for a client without
// any, and returns its files.
func (a *Authority) Issue(tb testing.TB, name string, addrs ...string) (cert, key string) {
	tb.Helper()
	pair, err := a.ca.Issue(name, addrs...)
	if err != nil {
		tb.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	write(tb, cert, pair.Cert)
	write(tb, key, pair.Key)
	return cert, key
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}
