package proxies

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// certificate is one for app.example.com, signed by itself, with its key.
var certificate = sync.OnceValues(func() (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app.example.com"}, DNSNames: []string{"app.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		panic(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes})
})

// roots trust it.
var roots = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	crt, _ := certificate()
	pool.AppendCertsFromPEM(crt)
	return pool
})

func writeCertificate(t *testing.T, at place) {
	t.Helper()
	crt, key := certificate()
	for name, text := range map[string][]byte{"app.crt": crt, "app.key": key, "app.pem": slices.Concat(crt, key)} {
		if err := os.WriteFile(at.file(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
