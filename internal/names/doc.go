// Package names answers, inside a container's network namespace, what the engine's own
// resolver cannot know: the names of containers on other hosts.
//
//	book := names.NewBook()
//	s := names.New(names.Config{Book: book, Open: …, Redirect: …}) // kernel and firewall
//	go s.Run(ctx)
//	book.SetNetwork(names.Network{ID: id, Name: "mynet", Endpoints: …})
//	s.Attend(names.Container{Sandbox: "/run/docker/netns/…", Networks: []string{id}})
//	book.SetEndpoints(id, names.Endpoint{Host: "h2", ID: ep, Names: []string{"redis"}, Addrs: …})
//	s.Forsake("/run/docker/netns/…")
//
// # How it works
//
// Containers ask 127.0.0.11, where the engine's resolver listens behind rules of its own.
// weft listens in the same namespace, and a Redirect, before the engine's rules, sends the
// container's questions there. [Answer] decides about each of them, and is pure: what the
// [Book] knows of the container's networks it answers, in the engine's shape; everything
// else goes to the engine's resolver as it came, and the reply comes back as it is. weft
// never says that a name does not exist, so it cannot hide one that appears a moment later.
//
// The book should know the local containers as well, and all networks of a container that
// the engine answers for, in its order: of two networks with one name the first counts
// that has an address of the wanted family, and where a name is both here and elsewhere,
// both answer. Names that only one container has (the aliases of --link) are its Private
// ones.
//
// # What may fail
//
// The Redirect ends with the process, however that ends (on kernels before 5.12 within ten
// seconds), and within ten seconds if the process is stopped; the engine alone answers
// then. A watchdog does the same to a resolver that hangs. Nothing remembers where a
// container's questions went: sockets that it keeps ask whoever answers at the moment. A
// connection by TCP ends where that changes.
//
// # What the package does not do
//
// It learns no names and shares none: whoever fills the book does. It keeps nothing, asks
// no engine's API, and needs no store. It does not answer types other than A, AAAA, PTR
// and, with nothing, MX; it speaks no DNS over anything but UDP and TCP.
package names
