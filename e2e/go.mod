module github.com/mesher/mesherstream/e2e

go 1.26.0

replace github.com/mesher/mesherstream => ../
