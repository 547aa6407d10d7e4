package store_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/internal/store/storetest"
)

// saysDown waits until a store that cannot work is known to be down, and checks
// what it says.
func saysDown(t testing.TB, cfg store.Config, class error, words ...string) {
	t.Helper()
	var s *store.Store
	var err error
	var start time.Time
	lacks := func(word string) bool { return !strings.Contains(fmt.Sprint(err), word) }
	for range 6 { // a busy machine may take longer for a login than a member may for an answer
		s, start = open(t, cfg), time.Now()
		_, err = s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("x", nil)}})
		if right := (class == nil || errors.Is(err, class)) && !slices.ContainsFunc(words, lacks); right || !strings.Contains(fmt.Sprint(err), "no answer in time") {
			break
		}
	}
	if !errors.Is(err, store.ErrDown) || class != nil && !errors.Is(err, class) || errors.Is(err, store.ErrUnknown) {
		t.Errorf("Commit: %v, want %v", err, class)
	}
	for _, w := range words {
		if lacks(w) || !strings.Contains(s.Status().Why, w) {
			t.Errorf("%q and %q lack %q", err, s.Status().Why, w)
		}
	}
	if d := time.Since(start); d > noticeDown {
		t.Errorf("the first Commit waited %s", d)
	}
	refusesAtOnce(t, s)
	if err := s.Close(); err != nil { // logins cost the others' etcd its processor
		t.Error(err)
	}
}

// TestDenied: a wrong password, no password and a foreign prefix are told apart
// from an outage, and logins that expire are renewed.
func TestDenied(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{Auth: true}, func(t *testing.T, c *storetest.Cluster) {
		good := config(c)
		s := open(t, good)
		m := watch(t, s, "d/")
		put(t, s, "d/1", "1")
		m.catchUp(t, s, "d/")

		bad := good
		bad.Password = "wrong"
		saysDown(t, bad, store.ErrDenied, "WEFT_STORE_PASSWORD", c.Endpoint(0))
		bad.User, bad.Password = "", ""
		saysDown(t, bad, store.ErrDenied, "WEFT_STORE_USER")
		bad = good
		bad.Endpoints += "/foreign"
		saysDown(t, bad, store.ErrDenied, "grant-permission")

		c.ExpireTokens() // a login of a busy etcd's may take longer than a Commit waits for it
		storetest.Eventually(t, 20*time.Second, "a write after the login expired", func() error {
			_, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("d/2", []byte("2"))}})
			return err
		})
		c.ExpireTokens()
		storetest.Eventually(t, 20*time.Second, "a read after the login expired", func() error {
			_, err := s.Read(t.Context(), "d/")
			return err
		})
		m.catchUp(t, s, "d/")
		c.Stop()
		c.StartAll()
		eventually(t, 5*time.Second, "it is up", s.Up)
		put(t, s, "d/3", "3")
		m.catchUp(t, s, "d/")

		c.Ctl("role", "revoke-permission", "--prefix=true", "weft", "weft/")
		_, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("d/4", nil)}})
		if !errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("Commit without the permission: %v", err)
		}
		c.Ctl("role", "grant-permission", "--prefix=true", "weft", "readwrite", "weft/")
		eventually(t, 5*time.Second, "it is up", s.Up)
		put(t, s, "d/5", "5")
		m.catchUp(t, s, "d/")
		if get(t, s, "d/4").Rev != 0 {
			t.Error("what was denied happened")
		}
	})
}

// TestTLS: with the right files it works, and every wrong one is named.
func TestTLS(t *testing.T) {
	t.Parallel()
	forEachEtcd(t, storetest.Config{TLS: true}, func(t *testing.T, c *storetest.Cluster) {
		s := open(t, config(c))
		put(t, s, "t", "1")
		dir := t.TempDir()
		foreign := storetest.NewAuthority(t, dir, "foreign")
		cert, key := foreign.Issue(t, "client")

		cfg := config(c)
		cfg.CA = foreign.CA
		saysDown(t, cfg, nil, "WEFT_STORE_CA", c.Endpoint(0))
		cfg = config(c)
		cfg.Cert, cfg.Key = "", ""
		saysDown(t, cfg, store.ErrDenied, "WEFT_STORE_CERT")
		cfg.Cert, cfg.Key = cert, key
		saysDown(t, cfg, store.ErrDenied, "WEFT_STORE_CERT")
		saysDown(t, store.Config{Endpoints: "etcd://" + c.Endpoint(0)}, nil, "it may want TLS")
		cfg = config(c)
		cfg.CA, cfg.Cert, cfg.Key = "", "", ""
		saysDown(t, cfg, nil, "WEFT_STORE_CA")
	})
	t.Run("names", func(t *testing.T) {
		t.Parallel()
		plain := storetest.Start(t, storetest.Config{Version: "3.5"})
		ca := storetest.NewAuthority(t, t.TempDir(), "x").CA
		saysDown(t, store.Config{Endpoints: plain.Endpoints(), CA: ca}, nil, "it speaks no TLS")
		saysDown(t, store.Config{Endpoints: "etcd://nobody.invalid:1"}, nil, "its name is unknown")
		saysDown(t, store.Config{Endpoints: "etcd://127.0.0.1:1,127.0.0.1:2"}, nil, "127.0.0.1:1, 127.0.0.1:2: nothing listens there")
	})
}

// TestHung: of an etcd that takes connections and says nothing, the status says just that.
func TestHung(t *testing.T) {
	t.Parallel()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes connections, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	for _, scheme := range []string{"etcd://", "etcds://"} {
		s := open(t, store.Config{Endpoints: scheme + hung.Addr().String()})
		eventually(t, 20*time.Second, scheme+" is told to hang", func() bool {
			return strings.Contains(s.Status().Why, "it takes the connection and says nothing")
		})
	}
}

// TestFiles: certificates that cannot be used are a store that is down, until they can,
// and a renewed one is taken without a restart.
func TestFiles(t *testing.T) {
	t.Parallel()
	c := storetest.Start(t, storetest.Config{Version: "3.5", TLS: true})
	good, dir := config(c), t.TempDir()
	cfg := good
	cfg.CA, cfg.Cert, cfg.Key = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	_, otherKey := storetest.NewAuthority(t, dir, "other").Issue(t, "client")

	saysDown(t, cfg, nil, "WEFT_STORE_CA", cfg.CA, "no such file")
	copyFile(t, good.Key, cfg.CA)
	saysDown(t, cfg, nil, "WEFT_STORE_CA", cfg.CA, "no certificate")
	copyFile(t, good.CA, cfg.CA)
	saysDown(t, cfg, nil, "WEFT_STORE_CERT", cfg.Cert, "no such file")
	copyFile(t, good.Cert, cfg.Cert)
	copyFile(t, otherKey, cfg.Key)
	saysDown(t, cfg, nil, "WEFT_STORE_KEY", cfg.Key, "does not match")

	s, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Get(t.Context(), "x"); !errors.Is(err, store.ErrDown) {
		t.Fatalf("%v, want ErrDown", err)
	}
	copyFile(t, good.Key, cfg.Key)
	eventually(t, 10*time.Second, "the store to be used with the right key", s.Up)
	put(t, s, "x", "1")
}

// TestRefusedFiles: certificates that can be read, and that one side refuses, are a store
// that is down until they are put right.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	c := storetest.Start(t, storetest.Config{Version: "3.5", TLS: true})
	good, other := config(c), storetest.NewAuthority(t, t.TempDir(), "other")
	otherCert, otherKey := other.Issue(t, "client")
	for name, wrong := range map[string]struct {
		ca, cert, key string
		words         string
	}{
		"of a client":  {good.CA, otherCert, otherKey, "WEFT_STORE_CERT"},
		"of authority": {other.CA, good.Cert, good.Key, "WEFT_STORE_CA"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, cfg := t.TempDir(), good
			cfg.CA, cfg.Cert, cfg.Key = filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
			put := func(ca, cert, key string) {
				copyFile(t, ca, cfg.CA)
				copyFile(t, cert, cfg.Cert)
				copyFile(t, key, cfg.Key)
			}
			put(wrong.ca, wrong.cert, wrong.key)
			s := open(t, cfg)
			eventually(t, 10*time.Second, "the store to be down for its certificates", func() bool {
				return strings.Contains(s.Status().Why, wrong.words)
			})
			put(good.CA, good.Cert, good.Key)
			eventually(t, 15*time.Second, "the store to be used with the right files", s.Up)
		})
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReadOnly: a full store says so; what is said not to have happened did not,
// and what is said to have happened did; after the cure it goes on.
func TestReadOnly(t *testing.T) {
	forEach(t, storetest.Config{Quota: 16 << 20}, func(t *testing.T, s rig) {
		put(t, s, "other", "1")
		small := put(t, s, "small", "1")
		update := store.Txn{If: []store.Cond{store.Unchanged("small", small)}, Then: []store.Op{store.Put("small", []byte("2"))}}
		if s.fake != nil {
			s.fake.SetReadOnly(true)
		} else {
			fill(t, s)
		}
		if _, err := s.Commit(t.Context(), update); !errors.Is(err, store.ErrReadOnly) || errors.Is(err, store.ErrUnknown) {
			t.Errorf("Commit: %v", err)
		}
		if kv := get(t, s, "small"); kv.Rev != small || !s.Up() {
			t.Errorf("a refused Commit happened, or the store is down: %+v %+v", kv, s.Status())
		}
		// What only deletes still goes through.
		gone := commit(t, s, store.Txn{Then: []store.Op{store.Delete("other")}})
		if !gone.OK || get(t, s, "other").Rev != 0 {
			t.Errorf("a deletion on a full store: %+v", gone)
		}
		if s.fake != nil {
			s.fake.SetReadOnly(false)
		} else {
			s.cluster.Ctl("del", "--prefix", "weft/fill/")
			s.cluster.Compact()
			s.cluster.Ctl("defrag")
			s.cluster.Ctl("alarm", "disarm")
		}
		if res := commit(t, s, update); !res.OK {
			t.Errorf("after the cure: %+v", res)
		}
	})
}

// fill writes from many sides until the store is full, and checks that every
// outcome was true.
func fill(t *testing.T, s rig) {
	var mu sync.Mutex
	var writers sync.WaitGroup
	outcomes := make(map[string]error)
	value := make([]byte, 200<<10)
	for w := range 8 {
		writers.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("fill/%d/%d", w, n)
				_, err := s.Commit(t.Context(), store.Txn{If: []store.Cond{store.Unchanged(key, 0)}, Then: []store.Op{store.Put(key, value)}})
				mu.Lock()
				outcomes[key] = err
				mu.Unlock()
				if errors.Is(err, store.ErrReadOnly) && !errors.Is(err, store.ErrUnknown) || err != nil && !errors.Is(err, store.ErrUnknown) || n > 1000 {
					return
				}
			}
		})
	}
	writers.Wait()
	snap, err := s.Read(t.Context(), "fill/")
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, kv := range snap.KVs {
		there[kv.Key] = true
	}
	counts := make(map[string]int)
	for key, err := range outcomes {
		switch {
		case err == nil:
			counts["done"]++
		case errors.Is(err, store.ErrUnknown):
			counts[fmt.Sprintf("unknown, happened: %t", there[key])]++
			continue
		case errors.Is(err, store.ErrReadOnly):
			counts["refused"]++
		default:
			t.Errorf("%s: %v", key, err)
		}
		if there[key] != (err == nil) {
			t.Errorf("%s is there: %t, but Commit said: %v", key, there[key], err)
		}
	}
	t.Logf("%v", counts)
}

// TestTooLarge: what is beyond a member's limits is refused, wherever that is seen.
func TestTooLarge(t *testing.T) {
	forEach(t, storetest.Config{Args: []string{"--max-request-bytes=20000"}}, func(t *testing.T, s rig) {
		sizes := []int{2 << 20}
		if s.cluster != nil {
			sizes = append(sizes, 30_000, 1<<20)
		}
		for _, size := range sizes {
			_, err := s.Commit(t.Context(), store.Txn{Then: []store.Op{store.Put("big", make([]byte, size))}})
			if !errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrUnknown) {
				t.Errorf("%d bytes: %v", size, err)
			}
		}
		var many store.Txn
		for i := range 129 {
			many.Then = append(many.Then, store.Put(fmt.Sprint(i), nil))
		}
		if _, err := s.Commit(t.Context(), many); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("129 changes: %v", err)
		}
		many.Then = many.Then[:128]
		commit(t, s, many)
		if get(t, s, "big").Rev != 0 {
			t.Error("what was refused happened")
		}
	})
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	a := storetest.NewAuthority(t, dir, "a")
	cert, key := a.Issue(t, "client")
	for _, c := range []struct {
		name string
		cfg  store.Config
		want string // the endpoints, or a part of the error
		ok   bool
	}{
		{"one host", store.Config{Endpoints: "etcd://h1"}, "h1:2379", true},
		{"hosts, ports, prefix", store.Config{Endpoints: "etcd://h1:1,10.0.0.1,h-2.x_y.example:65535/a/b"}, "h1:1 10.0.0.1:2379 h-2.x_y.example:65535", true},
		{"IPv6", store.Config{Endpoints: "etcd://[::1],[fe80::1]:7/"}, "[::1]:2379 [fe80::1]:7", true},
		{"system's authorities", store.Config{Endpoints: "etcds://h1"}, "h1:2379", true},
		{"all files", store.Config{Endpoints: "etcd://h1", CA: a.CA, Cert: cert, Key: key, User: "u", Password: "p"}, "h1:2379", true},
		{"nothing", store.Config{}, "WEFT_STORE", false},
		{"no scheme", store.Config{Endpoints: "h1:2379"}, "etcd://", false},
		{"http", store.Config{Endpoints: "http://h1:2379"}, "etcd://", false},
		{"no host", store.Config{Endpoints: "etcd://"}, "neither a host name", false},
		{"empty host", store.Config{Endpoints: "etcd://h1,,h2"}, "neither a host name", false},
		{"space", store.Config{Endpoints: "etcd://h1, h2"}, `" h2"`, false},
		{"twice", store.Config{Endpoints: "etcd://h1,h1:2379"}, "twice", false},
		{"port 0", store.Config{Endpoints: "etcd://h1:0"}, `"0"`, false},
		{"port too high", store.Config{Endpoints: "etcd://h1:65536"}, `"65536"`, false},
		{"port name", store.Config{Endpoints: "etcd://h1:etcd"}, `"etcd"`, false},
		{"port missing", store.Config{Endpoints: "etcd://h1:"}, `"h1:"`, false},
		{"bare IPv6", store.Config{Endpoints: "etcd://fe80::1"}, "fe80::1", false},
		{"IPv4 in brackets", store.Config{Endpoints: "etcd://[10.0.0.1]"}, "brackets", false},
		{"half a bracket", store.Config{Endpoints: "etcd://[::1"}, "[::1", false},
		{"bad IPv4", store.Config{Endpoints: "etcd://10.0.0.256"}, "10.0.0.256", false},
		{"user in the text", store.Config{Endpoints: "etcd://u:p@h1"}, "WEFT_STORE_PASSWORD", false},
		{"empty part of the prefix", store.Config{Endpoints: "etcd://h1/a//b"}, "prefix", false},
		{"query", store.Config{Endpoints: "etcd://h1/a?tls=1"}, "prefix", false},
		{"user alone", store.Config{Endpoints: "etcd://h1", User: "u"}, "WEFT_STORE_PASSWORD", false},
		{"password alone", store.Config{Endpoints: "etcd://h1", Password: "p"}, "WEFT_STORE_USER", false},
		{"certificate alone", store.Config{Endpoints: "etcd://h1", Cert: cert}, "WEFT_STORE_KEY", false},
		{"key alone", store.Config{Endpoints: "etcd://h1", Key: key}, "WEFT_STORE_CERT", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := store.Open(c.cfg)
			if err != nil {
				if c.ok || !errors.Is(err, store.ErrConfig) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			defer s.Close()
			if got := strings.Join(s.Status().Endpoints, " "); !c.ok || got != c.want {
				t.Errorf("endpoints %s, want %q", got, c.want)
			}
		})
	}
}

// TestPrefix: two prefixes of one etcd do not see each other.
func TestPrefix(t *testing.T) {
	t.Parallel()
	c := storetest.Start(t, storetest.Config{Version: "3.5"})
	a, b := open(t, config(c)), open(t, store.Config{Endpoints: c.Endpoints() + "/two/parts"})
	put(t, a, "k", "a")
	m := watch(t, b, "")
	put(t, b, "k", "b")
	m.catchUp(t, b, "")
	commit(t, b, store.Txn{Then: []store.Op{store.DeletePrefix("")}})
	m.catchUp(t, b, "")
	if kv := get(t, a, "k"); string(kv.Value) != "a" {
		t.Errorf("%+v", kv)
	}
	if out := c.Ctl("get", "--prefix", "", "--keys-only"); strings.TrimSpace(out) != "weft/k" {
		t.Errorf("keys %q", out)
	}
}
